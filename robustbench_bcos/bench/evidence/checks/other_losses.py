"""Whether another loss finds more."""

from collections.abc import Sequence
from typing import final

from robustbench_bcos.attacks.attack import AbstractAttack
from robustbench_bcos.attacks.refined import Refined
from robustbench_bcos.attacks.searches.apgd import APGD
from robustbench_bcos.attacks.searches.apgd_targeted import TargetedAPGD
from robustbench_bcos.bench.evidence import CHECKS
from robustbench_bcos.bench.evidence.check import AbstractSearchCheck

SCREEN = (
    Refined(search=TargetedAPGD(steps=10, targets=9, candidates=9, brief=True)),
    Refined(search=APGD(steps=10, loss="margin")),
)
"""Every robust image is given the first of these that serves the criterion: the other one where that names a class. All
targets of AutoAttack: with three, the nearest by their linear distance, eight of 364 digits stayed that break at once
towards another class. Their losses had not risen, so that they came last of all in the order of what to search at
length."""

DEEP = (
    Refined(search=APGD(steps=10)),
    Refined(search=APGD(steps=10, loss="margin")),
    Refined(search=TargetedAPGD(steps=20, targets=9, candidates=30, brief=True)),
)
"""For the nearest images for as long as some of the last ones break, and for a sample of the others; then, with other
draws each time, for the very nearest. Each loss breaks images that the others do not. Again all targets: one that is
left out is what most images that a short search does not break are broken towards."""


@final
@CHECKS.registered("other_losses")
class OtherLosses(AbstractSearchCheck):
    """Auto-PGD aimed at the nearest wrong classes, first briefly for every image, then at length for the nearest.

    Targeted searches find what untargeted ones miss, whose loss raises all wrong classes alike.
    """

    asks = "broken by Auto-PGD with another loss"
    rule = "search"
    budget = 1.0
    gross = True

    def attacks(self, attack: AbstractAttack, *, full: bool) -> Sequence[AbstractAttack]:
        """Short searches, whatever the attack was."""
        return SCREEN

    def deeper(self, attack: AbstractAttack) -> Sequence[AbstractAttack]:
        """The untargeted loss, and more targets and steps."""
        return DEEP

    def along_gradients(self, attack: AbstractAttack) -> bool:
        """Always."""
        return True
