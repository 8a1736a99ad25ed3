"""The classical Runge-Kutta method."""

from dataclasses import dataclass
from typing import final

from torch import Tensor

from robustbench_bcos.dynamics import SOLVERS
from robustbench_bcos.dynamics.solver import Field, FixedStepSolver


@final
@SOLVERS.registered("rk4")
@dataclass(frozen=True, kw_only=True)
class RungeKutta4(FixedStepSolver):
    """Four evaluations a step: the default of models here, for attacks and explanations."""

    order = 4
    stages = 4

    def step(self, field: Field, states: Tensor, size: float) -> Tensor:
        """Along a mean of the field at the beginning, twice in the middle, and at the end."""
        first = field(states)
        second = field(states.add(first, alpha=size / 2))
        third = field(states.add(second, alpha=size / 2))
        fourth = field(states.add(third, alpha=size))
        outer, inner = first + fourth, second + third
        return states.add(outer, alpha=size / 6).add_(inner, alpha=size / 3)
