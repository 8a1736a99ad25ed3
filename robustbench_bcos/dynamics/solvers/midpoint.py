"""The explicit midpoint method."""

from dataclasses import dataclass
from typing import final

from torch import Tensor

from robustbench_bcos.dynamics import SOLVERS
from robustbench_bcos.dynamics.solver import Field, FixedStepSolver


@final
@SOLVERS.registered("midpoint")
@dataclass(frozen=True, kw_only=True)
class Midpoint(FixedStepSolver):
    """Two evaluations a step."""

    order = 2
    stages = 2

    def step(self, field: Field, states: Tensor, size: float) -> Tensor:
        """Along the field in the middle."""
        return states.add(field(states.add(field(states), alpha=size / 2)), alpha=size)
