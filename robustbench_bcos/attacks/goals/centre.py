"""Another centre of mass."""

import math
from typing import final

import torch
from torch import Tensor

from robustbench_bcos.attacks import GOALS
from robustbench_bcos.attacks.goal import AbstractGoal
from robustbench_bcos.core.maps import mass_centre
from robustbench_bcos.core.types import Maps, PerImage


@final
@GOALS.registered("centre")
class Centre(AbstractGoal):
    """The centre of mass of the magnitudes as far away as the image is wide (Ghorbani et al., 2019)."""

    def left(self, maps: Maps, references: Maps) -> PerImage:
        """1 less the distance in units of the image's diagonal."""
        diagonal = math.hypot(*(size - 1 for size in maps.shape[1:])) or 1.0
        distance: Tensor = torch.linalg.vector_norm(mass_centre(maps) - mass_centre(references), dim=1)
        return 1 - distance / diagonal
