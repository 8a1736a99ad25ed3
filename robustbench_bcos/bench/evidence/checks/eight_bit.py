"""Whether successes survive being stored as a picture."""

from typing import final

from robustbench_bcos.bench.evidence import CHECKS
from robustbench_bcos.bench.evidence.check import AbstractVerdictsCheck
from robustbench_bcos.bench.evidence.verdicts import VerdictsContext


@final
@CHECKS.registered("eight_bit")
class EightBit(AbstractVerdictsCheck):
    """Pixels of a picture are k/255."""

    asks = "broken only before the pixels are rounded to k/255"
    rule = "report"

    def count(self, verdicts: VerdictsContext) -> tuple[int, int]:
        """Of the successes, those that rounding undoes."""
        rounded = [row for row in verdicts.attacked if row.eight_bit is not None]
        return len(rounded), sum(not row.eight_bit for row in rounded)
