"""Whether the attack had gradients to follow."""

from typing import final

from robustbench_bcos.bench.evidence import CHECKS
from robustbench_bcos.bench.evidence.check import AbstractVerdictsCheck
from robustbench_bcos.bench.evidence.verdicts import VerdictsContext


@final
@CHECKS.registered("degenerate_gradients")
class DegenerateGradients(AbstractVerdictsCheck):
    """Where a gradient is 0 everywhere, or not finite, a step goes nowhere.

    A single one may have underflowed, as in half precision; a model that hides its gradients hides many.
    """

    asks = "with a gradient that is 0 everywhere, NaN or infinite on the attack's way"
    rule = "share"
    of_misses = True

    def count(self, verdicts: VerdictsContext) -> tuple[int, int]:
        """Images with at least one such step."""
        return len(verdicts.attacked), sum(row.degenerate_gradient for row in verdicts.attacked)
