"""Whether the attack passed a success and returned something else."""

from collections.abc import Iterator
from typing import final

from robustbench_bcos.bench.evidence import CHECKS
from robustbench_bcos.bench.evidence.check import AbstractCellCheck
from robustbench_bcos.bench.evidence.contexts import CellContext
from robustbench_bcos.bench.evidence.found import Found
from robustbench_bcos.bench.rows import ResultRow


@final
@CHECKS.registered("silent_success")
class SilentSuccess(AbstractCellCheck):
    """Indicator 3 of Pintor et al. (2022); where the first success is returned, none is silent."""

    asks = "broken on the attack's way and not at its end"
    rule = "search"
    full_only = True

    def examine(self, cell: CellContext) -> Iterator[ResultRow]:
        """One restart to its end."""
        target, path = cell.path()
        silent = path.silent() & (not cell.attack.inherits)
        yield from cell.rows(self, target, Found(against=silent, broken=silent, passes=path.passes))
