"""Scores of maps that somebody has already, from any code."""

import math

from robustbench_bcos.core.arrays import Array
from robustbench_bcos.core.deferred import torch
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.registry import as_known, unknown
from robustbench_bcos.core.types import Tensor
from robustbench_bcos.localisation import PROTOCOLS
from robustbench_bcos.localisation.protocol import SHARE, AbstractProtocol
from robustbench_bcos.localisation.scene import Box

SHAPE = "(grid, cell, height, width)"


def score_grids(maps: Array, protocol: str = "ours", smooth: int | None = None) -> Tensor:
    """The share of each map in its own cell, (grid, cell), in float64; NaN for empty maps, unless they score 0.

    Args:
        maps: of shape (grid, cell, height, width), a tensor or an array: of each grid of n cells, n maps; map k
            explains the class of the image in cell k. Cells are counted row by row, of ``bcos_v2`` column by column.
        protocol: name of one of ``PROTOCOLS``.
        smooth: side of the smoothing window, odd; by default as the protocol says.

    Raises:
        RequestError: an unknown protocol, maps of another shape, or with NaN or infinity.
    """
    name = as_known(protocol, PROTOCOLS)
    if name not in PROTOCOLS:
        raise unknown("protocol", protocol, PROTOCOLS)
    if smooth is not None and (smooth < 1 or smooth % 2 == 0):
        raise RequestError(f"smooth {smooth} must be odd and positive, so that a window has a middle: give 1 for none")
    found = torch.as_tensor(maps)
    side = math.isqrt(found.shape[1]) if found.dim() == 4 else 0
    if side < 2 or side**2 != found.shape[1] or found.shape[2] % side or found.shape[3] % side:
        raise RequestError(
            f"maps must be of shape {SHAPE}, as many for each grid as it has cells, 4 or 9, got {tuple(found.shape)}: "
            "give one map for each cell, of the size of the grid"
        )
    if not found.isfinite().all():
        bad = int((~found.isfinite()).flatten(1).any(dim=1).nonzero()[0])
        raise RequestError(f"maps must be finite, got NaN or infinity in grid {bad}: leave such grids out")
    definition = PROTOCOLS[name]
    cells = cells_of(definition, side, found.shape[2] // side, found.shape[3] // side)
    kernel = smooth or definition.kernel(cells[0].height)
    return torch.stack([definition.scores(grid.double(), cells, kernel).values[SHARE] for grid in found])


def cells_of(protocol: AbstractProtocol, side: int, height: int, width: int) -> tuple[Box, ...]:
    """Where each cell of a grid is, in the order of its images.

    Args:
        protocol: which says in which order a grid is filled.
        side: cells of a side of the grid.
        height: pixels of a cell.
        width: pixels of a cell.
    """
    places = [(row, column) for row in range(side) for column in range(side)]
    if protocol.column_major:
        places = [(row, column) for column, row in places]
    return tuple(Box(top=row * height, left=column * width, height=height, width=width) for row, column in places)
