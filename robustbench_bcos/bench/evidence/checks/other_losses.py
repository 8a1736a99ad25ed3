"""Whether another loss finds more."""

from collections.abc import Sequence
from typing import final

from robustbench_bcos.attacks.attack import AbstractAttack
from robustbench_bcos.attacks.searches.apgd import APGD
from robustbench_bcos.attacks.searches.apgd_targeted import TargetedAPGD
from robustbench_bcos.bench.evidence import CHECKS
from robustbench_bcos.bench.evidence.check import AbstractSearchCheck

FEWEST_STEPS = 20
"""Too few steps do not refute too few steps."""

TARGETS = 5
"""Target classes of the targeted search. It finds what untargeted searches miss; steps are divided among the targets,
so that the cost is the same."""


@final
@CHECKS.registered("other_losses")
class OtherLosses(AbstractSearchCheck):
    """Auto-PGD with the margin, and aimed at the likeliest wrong classes; or with cross-entropy instead of its own."""

    asks = "broken by Auto-PGD with another loss"
    rule = "search"
    budget = 1.0
    gross = True

    def attacks(self, attack: AbstractAttack, *, full: bool) -> Sequence[AbstractAttack]:
        """As many steps as the attack."""
        steps = max(attack.effort, FEWEST_STEPS)
        own = getattr(attack, "loss", "")
        targeted = TargetedAPGD(steps=-(-steps // TARGETS), targets=TARGETS)
        second = APGD(steps=steps) if isinstance(attack, TargetedAPGD) else targeted
        return [APGD(steps=steps, loss="ce" if own == "margin" else "margin"), second]

    def along_gradients(self, attack: AbstractAttack) -> bool:
        """Always."""
        return True
