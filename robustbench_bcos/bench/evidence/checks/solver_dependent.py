"""Whether robustness survives another solver of the model's differential equation."""

from collections.abc import Iterator
from functools import partial
from typing import final

from robustbench_bcos.attacks.attack import AbstractAttack
from robustbench_bcos.bench.evidence import CHECKS
from robustbench_bcos.bench.evidence.check import AbstractCellCheck
from robustbench_bcos.bench.evidence.contexts import CellContext
from robustbench_bcos.bench.evidence.selection import FEWEST
from robustbench_bcos.bench.rows import ResultRow


@final
@CHECKS.registered("solver_dependent")
class SolverDependent(AbstractCellCheck):
    """Step control that reacts to the attack hides gradients, and robustness with it (Huang et al., 2022)."""

    asks = "broken by the attack through another solver of its differential equation"
    rule = "share"
    of_misses = True

    def examine(self, cell: CellContext) -> Iterator[ResultRow]:
        """Search through fixed steps and through a tighter solver; networks without a flow have no rows."""
        from robustbench_bcos.bench.evidence.other_solvers import search_through_others
        from robustbench_bcos.model_zoo.architectures.odenet import flows_of

        if not cell.robust or not flows_of(cell.model.classifier):
            return
        most = len(cell.robust) if cell.full else FEWEST
        subject = f"{cell.cell.key}, {self.name}"
        yield from cell.searched(self, most, partial(search_through_others, cell.attack, subject=subject))

    def passes(self, attack: AbstractAttack) -> int:
        """The attack twice."""
        return 2 * attack.passes
