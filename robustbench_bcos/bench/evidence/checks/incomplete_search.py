"""Whether the attack was still on its way when it ended."""

from collections.abc import Iterator
from typing import final

from robustbench_bcos.bench.evidence import CHECKS
from robustbench_bcos.bench.evidence.check import AbstractCellCheck
from robustbench_bcos.bench.evidence.contexts import CellContext
from robustbench_bcos.bench.evidence.found import Found
from robustbench_bcos.bench.rows import ResultRow


@final
@CHECKS.registered("incomplete_search")
class IncompleteSearch(AbstractCellCheck):
    """Indicator 4 of Pintor et al. (2022)."""

    asks = "whose loss still rises in the last steps"
    rule = "report"
    full_only = True

    def examine(self, cell: CellContext) -> Iterator[ResultRow]:
        """One restart to its end."""
        from robustbench_bcos.bench.evidence.indicators import PROGRESS

        target, path = cell.path()
        values = path.progress(cell.ascended(target))
        yield from cell.rows(self, target, Found(against=values > PROGRESS, values=values, passes=path.passes))
