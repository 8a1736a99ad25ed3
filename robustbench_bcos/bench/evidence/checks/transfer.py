"""Whether another model's adversarial examples break what gradients did not."""

from collections.abc import Iterator
from typing import final

from robustbench_bcos.bench.evidence import CHECKS
from robustbench_bcos.bench.evidence.check import AbstractCellCheck
from robustbench_bcos.bench.evidence.contexts import CellContext
from robustbench_bcos.bench.rows import ResultRow, TransferRow


@final
@CHECKS.registered("transfer")
class Transfer(AbstractCellCheck):
    """A model that only hides its gradients is broken by what was made on a model that does not."""

    asks = "broken by an adversarial example of another model and by no search along gradients"
    rule = "gradients"

    def examine(self, cell: CellContext) -> Iterator[ResultRow | TransferRow]:
        """Adversarial examples of every other model for the same threat, judged on this one."""
        yield from cell.transfer(self)
