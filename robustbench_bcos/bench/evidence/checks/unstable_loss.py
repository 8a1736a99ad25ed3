"""Whether the loss is smooth enough to be ascended."""

from collections.abc import Iterator
from typing import final

from robustbench_bcos.bench.evidence import CHECKS
from robustbench_bcos.bench.evidence.check import AbstractCellCheck
from robustbench_bcos.bench.evidence.contexts import CellContext
from robustbench_bcos.bench.evidence.found import Found
from robustbench_bcos.bench.rows import ResultRow


@final
@CHECKS.registered("unstable_loss")
class UnstableLoss(AbstractCellCheck):
    """Indicator 2 of Pintor et al. (2022)."""

    asks = "whose loss changes by more than a tenth under small noise"
    rule = "report"
    full_only = True

    def examine(self, cell: CellContext) -> Iterator[ResultRow]:
        """On the first images that are classified correctly."""
        from robustbench_bcos.bench.evidence.indicators import DRAWS, UNSTABLE, instability

        target = cell.target(cell.first_correct(), stream=self.name)
        values = instability(target.classifier, target.images, target.goals, cell.ascended(target), target.rng)
        yield from cell.rows(self, target, Found(against=values > UNSTABLE, values=values, passes=1 + DRAWS))
