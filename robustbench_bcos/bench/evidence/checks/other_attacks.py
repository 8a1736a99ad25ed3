"""Whether another attack of the run found more."""

from typing import final

from robustbench_bcos.bench.evidence import CHECKS
from robustbench_bcos.bench.evidence.check import AbstractVerdictsCheck
from robustbench_bcos.bench.evidence.verdicts import VerdictsContext


@final
@CHECKS.registered("other_attacks")
class OtherAttacks(AbstractVerdictsCheck):
    """Within the same epsilon, or a smaller one."""

    asks = "broken by another attack of this run within this epsilon"
    rule = "search"

    def count(self, verdicts: VerdictsContext) -> tuple[int, int]:
        """Of the images that stayed robust, those that another attack broke."""
        return len(verdicts.robust), len(verdicts.robust & verdicts.broken_by_other_attacks)
