"""Whether another loss finds more."""

from collections.abc import Sequence
from typing import final

from robustbench_bcos.attacks.attack import AbstractAttack
from robustbench_bcos.attacks.searches.apgd import APGD
from robustbench_bcos.attacks.searches.apgd_targeted import TargetedAPGD
from robustbench_bcos.bench.evidence import CHECKS
from robustbench_bcos.bench.evidence.check import AbstractSearchCheck

SCREEN = (TargetedAPGD(steps=20, targets=3, candidates=9, brief=True), APGD(steps=10, loss="margin"))
"""Every robust image is given the first of these that serves the criterion: the other one where that names a class.
Three targets, chosen by their linear distance, find what nine do that are chosen by their logits."""

DEEP = (
    (TargetedAPGD(steps=50, targets=3, candidates=30, brief=True), APGD(steps=50)),
    (TargetedAPGD(steps=100, targets=9, brief=True), APGD(steps=100, restarts=2)),
)
"""Levels, each given to the nearest images for as long as some of the last ones break, and to a sample of the others;
the second one, with the targets and steps of AutoAttack, only where the first still broke some."""


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

    def deeper(self, attack: AbstractAttack) -> Sequence[Sequence[AbstractAttack]]:
        """More targets and steps, and the untargeted loss."""
        return DEEP

    def along_gradients(self, attack: AbstractAttack) -> bool:
        """Always."""
        return True
