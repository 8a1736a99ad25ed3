"""Whether a longer attack finds more."""

from collections.abc import Sequence
from typing import final

from robustbench_bcos.attacks.attack import AbstractAttack
from robustbench_bcos.bench.evidence import CHECKS
from robustbench_bcos.bench.evidence.check import AbstractSearchCheck


@final
@CHECKS.registered("more_steps")
class MoreSteps(AbstractSearchCheck):
    """A number that falls with more effort was not at its end."""

    asks = "broken by four times the steps from a random start"
    rule = "search"
    budget = 1 / 4

    def attacks(self, attack: AbstractAttack, *, full: bool) -> Sequence[AbstractAttack]:
        """The attack's own stronger version."""
        return [attack.stronger()]

    def along_gradients(self, attack: AbstractAttack) -> bool:
        """More of the same is along gradients if the attack is."""
        return attack.uses_gradients
