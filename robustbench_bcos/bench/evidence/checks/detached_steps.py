"""Whether the attack succeeds once gradients go through what the model detaches."""

from collections.abc import Iterator
from dataclasses import replace
from typing import final

from robustbench_bcos.attacks.attack import AbstractAttack
from robustbench_bcos.bench.evidence import CHECKS
from robustbench_bcos.bench.evidence.check import AbstractCellCheck
from robustbench_bcos.bench.evidence.contexts import CellContext
from robustbench_bcos.bench.evidence.found import Found
from robustbench_bcos.bench.rows import ResultRow

FOLLOWED = 8
"""Robust images, the nearest ones, whose gradients are compared."""


@final
@CHECKS.registered("detached_steps")
class DetachedSteps(AbstractCellCheck):
    """The attack again, through every ``detach`` and ``no_grad`` of the model as if they were not there."""

    asks = "broken by the attack through steps that the model detaches and by no search past them"
    rule = "gradients"

    def examine(self, cell: CellContext) -> Iterator[ResultRow]:
        """Search around all robust images where gradients change: elsewhere there are no rows."""
        from robustbench_bcos.bench.evidence.detached import Undetached, detaches, failures_told
        from robustbench_bcos.bench.judge import judge

        if not cell.robust:
            return
        nearest = cell.target(cell.robust[:FOLLOWED], stream=self.name)
        with failures_told():
            through = Undetached(nearest.classifier)
            followed = detaches(nearest, through)
        for attempt in cell.size.over(len(cell.robust) * followed):
            with attempt as part:
                indices = cell.robust[part]
                target = cell.target(indices, stream=self.name)
                with failures_told():
                    problem = replace(target, attack_model=through).problem(len(indices))
                    adversarials, trace = cell.attack.solve(problem)
                success = judge(target, adversarials, subject=f"{cell.cell.key}, {self.name}").success
                found = Found(against=success, passes=trace.forward_passes + trace.backward_passes, broken=success)
                yield from found.rows(cell.cell.key, self.name, dict.fromkeys(indices, "nearest"))

    def passes(self, attack: AbstractAttack) -> int:
        """Those of the attack."""
        return attack.passes
