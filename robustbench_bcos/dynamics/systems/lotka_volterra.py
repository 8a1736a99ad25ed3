"""Predator and prey."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, final

import numpy as np

from robustbench_bcos.dynamics import SYSTEMS
from robustbench_bcos.dynamics.system import AbstractSystem, Array


@final
@SYSTEMS.registered("lotka_volterra")
class LotkaVolterra(AbstractSystem):
    """x' = alpha x - beta x y, y' = delta x y - gamma y; delta x - gamma ln x + beta y - alpha ln y is constant."""

    states = ("prey", "predator")
    initial = (1.0, 1.0)
    parameters: ClassVar[Mapping[str, float]] = {"alpha": 1.5, "beta": 1.0, "gamma": 3.0, "delta": 1.0}
    end = 5.0
    source = "Lotka (1925), Volterra (1926)"

    def derivative(self, state: Array, parameters: Sequence[float]) -> Array:
        """Growth, and meetings."""
        alpha, beta, gamma, delta = parameters
        prey, predator = state
        return np.array([alpha * prey - beta * prey * predator, delta * prey * predator - gamma * predator])
