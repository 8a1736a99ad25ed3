"""Three reactions whose rates differ by nine orders of magnitude."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, final

import numpy as np

from robustbench_bcos.dynamics import SYSTEMS
from robustbench_bcos.dynamics.system import AbstractSystem, Array


@final
@SYSTEMS.registered("robertson")
class Robertson(AbstractSystem):
    """y1' = -k1 y1 + k3 y2 y3, y2' = k1 y1 - k3 y2 y3 - k2 y2^2, y3' = k2 y2^2: stiff; the sum stays 1.

    Explicit methods with SciPy's default tolerances run away without a word, to y1 = -1662 at time 40.
    """

    states = ("y1", "y2", "y3")
    initial = (1.0, 0.0, 0.0)
    parameters: ClassVar[Mapping[str, float]] = {"k1": 0.04, "k2": 3e7, "k3": 1e4}
    end = 40.0
    stiff = True
    source = "Robertson (1966)"

    def derivative(self, state: Array, parameters: Sequence[float]) -> Array:
        """What one loses another gains."""
        k1, k2, k3 = parameters
        y1, y2, y3 = state
        slow, back, fast = k1 * y1, k3 * y2 * y3, k2 * y2 * y2
        return np.array([back - slow, slow - back - fast, fast])
