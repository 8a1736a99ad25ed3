"""Euler's method."""

from dataclasses import dataclass
from typing import final

from torch import Tensor

from robustbench_bcos.dynamics import SOLVERS
from robustbench_bcos.dynamics.solver import Field, FixedStepSolver


@final
@SOLVERS.registered("euler")
@dataclass(frozen=True, kw_only=True)
class Euler(FixedStepSolver):
    """One evaluation a step; of a residual network, what a block does."""

    order = 1
    stages = 1

    def step(self, field: Field, states: Tensor, size: float) -> Tensor:
        """Along the field at the beginning."""
        return states.add(field(states), alpha=size)
