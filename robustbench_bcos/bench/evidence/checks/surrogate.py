"""Whether the model that is judged is the one that was attacked."""

from collections.abc import Iterator
from typing import final

from robustbench_bcos.bench.evidence import CHECKS
from robustbench_bcos.bench.evidence.check import AbstractCellCheck
from robustbench_bcos.bench.evidence.contexts import CellContext
from robustbench_bcos.bench.evidence.found import Found
from robustbench_bcos.bench.rows import ResultRow


@final
@CHECKS.registered("surrogate")
class Surrogate(AbstractCellCheck):
    """Indicator 5 of Pintor et al. (2022)."""

    asks = "that the attacked and the judged model classify differently"
    rule = "any"
    full_only = True

    def examine(self, cell: CellContext) -> Iterator[ResultRow]:
        """The last iterate of one restart."""
        target, path = cell.path()
        differs = path.surrogate(target.classifier) | (cell.cell.space != "image")
        yield from cell.rows(self, target, Found(against=differs, passes=path.passes))
