"""Whether the model gave NaN or infinite outputs under attack."""

from typing import final

from robustbench_bcos.bench.evidence import CHECKS
from robustbench_bcos.bench.evidence.check import AbstractVerdictsCheck
from robustbench_bcos.bench.evidence.verdicts import VerdictsContext
from robustbench_bcos.core.prediction import NO_CLASS


@final
@CHECKS.registered("not_finite")
class NotFinite(AbstractVerdictsCheck):
    """Such an image counts as broken, though the model may only have overflowed."""

    asks = "given NaN or infinite logits under attack"
    rule = "any"

    def count(self, verdicts: VerdictsContext) -> tuple[int, int]:
        """Images without a class, or without a nearness."""
        rows = verdicts.attacked
        return len(rows), sum(row.prediction == NO_CLASS or row.nearness is None for row in rows)
