"""A reaction that oscillates."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, final

import numpy as np

from robustbench_bcos.dynamics import SYSTEMS
from robustbench_bcos.dynamics.system import AbstractSystem, Array


@final
@SYSTEMS.registered("brusselator")
class Brusselator(AbstractSystem):
    """x' = A + x^2 y - (B + 1) x, y' = B x - x^2 y; a limit cycle where B > 1 + A^2."""

    states = ("x", "y")
    initial = (1.5, 3.0)
    parameters: ClassVar[Mapping[str, float]] = {"A": 1.0, "B": 3.0}
    end = 10.0
    source = "Prigogine and Lefever (1968)"

    def derivative(self, state: Array, parameters: Sequence[float]) -> Array:
        """A constant inflow, and one step that feeds itself."""
        inflow, other = parameters
        x, y = state
        return np.array([inflow + x * x * y - (other + 1) * x, other * x - x * x * y])
