"""A check of one's own: does a hundred times random noise break what gradients did not?"""

from collections.abc import Sequence

from robustbench_bcos.attacks.attack import AbstractAttack
from robustbench_bcos.attacks.searches.noise import Noise
from robustbench_bcos.bench.evidence import CHECKS
from robustbench_bcos.bench.evidence.check import AbstractSearchCheck


@CHECKS.registered("much_noise")
class MuchNoise(AbstractSearchCheck):
    """``noise`` with ten times the draws."""

    asks = "broken by a hundred draws of noise and by no search along gradients"
    rule = "gradients"
    budget = 1 / 8

    def attacks(self, attack: AbstractAttack, *, full: bool) -> Sequence[AbstractAttack]:
        return [Noise(restarts=100)]
