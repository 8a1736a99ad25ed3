"""How a map becomes a score in the grid pointing game. Definitions differ from paper to paper: one file for each."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from robustbench_bcos.localisation.game import Scores, TargetMaps
from robustbench_bcos.localisation.scene import Box, PerTarget

SHARE = "share"
"""The one measure of the game: the part of a map's positive contributions that is in the cell of its class."""


class AbstractProtocol(ABC):
    """A definition of the score; a new one is registered in ``PROTOCOLS``.

    Attributes:
        column_major: whether the second image of a grid lies below the first, and not to the right of it.
    """

    name: ClassVar[str]
    column_major: ClassVar[bool] = False

    @abstractmethod
    def kernel(self, cell: int) -> int:
        """Side of the smoothing window for cells of this side, in pixels; 1 does not smooth."""

    @abstractmethod
    def scores(self, maps: TargetMaps, cells: Sequence[Box], kernel: int) -> Scores:
        """The share of each map that is in its own cell.

        Args:
            maps: one for each cell, in the order of the cells; finite.
            cells: of the grid.
            kernel: side of the smoothing window, odd.
        """


def smoothed(maps: TargetMaps, kernel: int) -> TargetMaps:
    """Means over windows, with zeros around the picture that count, as in the official code."""
    if kernel == 1:
        return maps
    return F.avg_pool2d(maps[:, None], kernel, stride=1, padding=(kernel - 1) // 2)[:, 0]


def in_cells(maps: TargetMaps, cells: Sequence[Box]) -> Float[Tensor, "target cell"]:
    """What each map has in each cell, summed in float64."""
    return torch.stack([cell.cut(maps).double().sum(dim=(1, 2)) for cell in cells], dim=1)


def own_shares(amounts: Float[Tensor, "target cell"], *, least: float = 0.0) -> tuple[PerTarget, Tensor]:
    """What each map has in its own cell over what it has in all, and which maps have not more than the least.

    The share of those is NaN.
    """
    totals = amounts.sum(dim=1)
    empty = ~(totals > least)
    return amounts.diagonal().div(totals).masked_fill(empty, torch.nan), empty
