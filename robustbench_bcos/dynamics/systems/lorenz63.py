"""Convection, reduced to three numbers."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, final

import numpy as np

from robustbench_bcos.dynamics import SYSTEMS
from robustbench_bcos.dynamics.system import AbstractSystem, Array


@final
@SYSTEMS.registered("lorenz63")
class Lorenz63(AbstractSystem):
    """x' = sigma (y - x), y' = x (rho - z) - y, z' = x y - beta z; chaotic at these parameters."""

    states = ("x", "y", "z")
    initial = (1.0, 1.0, 1.0)
    parameters: ClassVar[Mapping[str, float]] = {"sigma": 10.0, "rho": 28.0, "beta": 8 / 3}
    end = 3.0
    lyapunov = 0.906
    source = "Lorenz (1963)"

    def derivative(self, state: Array, parameters: Sequence[float]) -> Array:
        """Two products, and the rest linear."""
        sigma, rho, beta = parameters
        x, y, z = state
        return np.array([sigma * (y - x), x * (rho - z) - y, x * y - beta * z])
