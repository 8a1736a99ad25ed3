"""The Belousov-Zhabotinsky reaction."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, final

import numpy as np

from robustbench_bcos.dynamics import SYSTEMS
from robustbench_bcos.dynamics.system import AbstractSystem, Array


@final
@SYSTEMS.registered("oregonator")
class Oregonator(AbstractSystem):
    """x' = s (y + x (1 - q x - y)), y' = (z - (1 + x) y) / s, z' = w (x - z): stiff, with peaks of 1e5."""

    states = ("x", "y", "z")
    initial = (1.0, 2.0, 3.0)
    parameters: ClassVar[Mapping[str, float]] = {"s": 77.27, "w": 0.161, "q": 8.375e-6}
    end = 360.0
    stiff = True
    source = "Field and Noyes (1974)"

    def derivative(self, state: Array, parameters: Sequence[float]) -> Array:
        """Fast, slow, and in between."""
        s, w, q = parameters
        x, y, z = state
        return np.array([s * (y + x * (1 - q * x - y)), (z - (1 + x) * y) / s, w * (x - z)])
