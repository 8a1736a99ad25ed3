"""Whether random noise breaks what gradients did not."""

from collections.abc import Sequence
from typing import final

from robustbench_bcos.attacks.attack import AbstractAttack
from robustbench_bcos.attacks.searches.noise import Noise
from robustbench_bcos.bench.evidence import CHECKS
from robustbench_bcos.bench.evidence.check import AbstractSearchCheck

DRAWS = 10


@final
@CHECKS.registered("noise")
class RandomNoise(AbstractSearchCheck):
    """Gradients that lead nowhere are worse than none."""

    asks = "broken by random noise and by no search along gradients"
    rule = "gradients"
    budget = 1 / 16

    def attacks(self, attack: AbstractAttack, *, full: bool) -> Sequence[AbstractAttack]:
        """Random draws from the ball."""
        return [Noise(restarts=DRAWS)]
