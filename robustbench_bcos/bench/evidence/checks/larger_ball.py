"""Whether a larger epsilon found less than a smaller one."""

from typing import final

from robustbench_bcos.bench.evidence import CHECKS
from robustbench_bcos.bench.evidence.check import AbstractVerdictsCheck
from robustbench_bcos.bench.evidence.verdicts import VerdictsContext


@final
@CHECKS.registered("larger_ball")
class LargerBall(AbstractVerdictsCheck):
    """Every perturbation of the smaller threat is allowed in the larger one."""

    asks = "broken within a smaller epsilon and not by the same attack within this one"
    rule = "search"

    def count(self, verdicts: VerdictsContext) -> tuple[int, int]:
        """Of the images that stayed robust, those broken within a smaller epsilon."""
        return len(verdicts.robust), len(verdicts.robust & verdicts.broken_by_same_attack)
