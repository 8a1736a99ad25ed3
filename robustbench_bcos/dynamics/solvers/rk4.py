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
        second = field(states + size / 2 * first)
        third = field(states + size / 2 * second)
        fourth = field(states + size * third)
        return states + size / 6 * (first + 2 * second + 2 * third + fourth)
