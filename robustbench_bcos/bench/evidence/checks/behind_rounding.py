"""Whether the attack succeeds on what pictures hold, where it failed on what it shows."""

from collections.abc import Iterator
from dataclasses import replace
from typing import final

from robustbench_bcos.attacks.attack import AbstractAttack
from robustbench_bcos.bench.evidence import CHECKS
from robustbench_bcos.bench.evidence.check import AbstractCellCheck
from robustbench_bcos.bench.evidence.contexts import CellContext
from robustbench_bcos.bench.evidence.found import Found
from robustbench_bcos.bench.rows import ResultRow


@final
@CHECKS.registered("behind_rounding")
class BehindRounding(AbstractCellCheck):
    """The attack again, on the model behind a rounding to k/255 that lets gradients through."""

    asks = "broken by the attack on the model behind rounding and by no search in front of it"
    rule = "gradients"

    def examine(self, cell: CellContext) -> Iterator[ResultRow]:
        """Search around all robust images where rounding broke another one: elsewhere there are no rows."""
        from robustbench_bcos.bench.rounding import RoundingModel, round_successes

        if not any(row.rounded for row in cell.known.verdicts(cell.cell)):
            return
        for attempt in cell.size.over(len(cell.robust)):
            with attempt as part:
                indices = cell.robust[part]
                target = cell.target(indices, stream=self.name)
                behind = replace(target, attack_model=RoundingModel(target.attack_model))
                adversarials, trace = cell.attack.solve(behind.problem(len(indices)))
                subject = f"{cell.cell.key}, {self.name}"
                success = round_successes(target, adversarials, subject=subject, batch_size=len(indices)).success
                found = Found(against=success, passes=trace.forward_passes + trace.backward_passes, broken=success)
                yield from found.rows(cell.cell.key, self.name, dict.fromkeys(indices, "nearest"))

    def passes(self, attack: AbstractAttack) -> int:
        """Those of the attack."""
        return attack.passes
