"""The definition of the official B-cos code, version 2 (interpretability/analyses/localisation.py)."""

from collections.abc import Mapping, Sequence
from typing import final

import numpy as np

from robustbench_bcos.localisation import PROTOCOLS
from robustbench_bcos.localisation.game import Scores, TargetMaps
from robustbench_bcos.localisation.protocol import (
    SHARE,
    AbstractProtocol,
    Candidates,
    Grids,
    in_cells,
    own_shares,
    smoothed,
)
from robustbench_bcos.localisation.scene import Box

KERNEL, OF_CELL = 15, 224
"""Published commands smooth cells of 224 pixels with windows of 15, and cells of 32 not at all."""

SEED = 42


@final
@PROTOCOLS.registered("bcos_v2")
class BcosV2(AbstractProtocol):
    """Smoothed, positive, the mean in the own cell over the sum of the means; an empty map scores 0.

    Quirks that are reproduced: cells are filled column by column; the window has as many pixels whatever the cell; an
    empty map counts as a miss. Grids of a model's own are dealt as there, too: the most confident images first, classes
    drawn by NumPy's generator from seed 42 as long as *more* classes are left than a grid has cells, and one image
    skipped after each grid, so that most grids straddle two draws.
    """

    column_major = True

    def kernel(self, cell: int) -> int:
        """15 for cells of 224 pixels and more, no smoothing for smaller ones."""
        return KERNEL if cell >= OF_CELL else 1

    def scores(self, maps: TargetMaps, cells: Sequence[Box], kernel: int) -> Scores:
        """Signed maps are smoothed, then cut at 0; all cells have one area, so that sums and means are alike."""
        shares, empty = own_shares(in_cells(smoothed(maps, kernel).clamp(min=0), cells))
        return Scores(values={SHARE: shares.nan_to_num(0)}, empty=empty)

    def deal(self, candidates: Candidates, cells: int, seed: int) -> Grids:
        """The official grids, whatever the seed."""
        return _walked(_order(candidates, cells), cells)


def _order(candidates: Candidates, cells: int) -> list[tuple[int, int]]:
    """Classes and places in the order in which the official code goes through them."""
    left: Mapping[int, list[int]] = {
        label: [place for place, _ in sorted(images, key=lambda image: -image[1])]
        for label, images in sorted(candidates.items())
    }
    taken = dict.fromkeys(left, 0)
    draws, order = np.random.RandomState(SEED), []
    while len(able := [label for label in left if taken[label] < len(left[label])]) > cells:
        for label in draws.choice(np.array(able), size=cells, replace=False).tolist():
            order.append((label, left[label][taken[label]]))
            taken[label] += 1
    return order


def _walked(order: Sequence[tuple[int, int]], cells: int) -> Grids:
    """The next images of distinct classes, again and again, one image skipped in between."""
    grids: Grids = []
    grid: dict[int, int] = {}
    images = iter(order)
    for label, place in images:
        grid.setdefault(label, place)
        if len(grid) == cells:
            grids.append(tuple(grid.values()))
            grid = {}
            next(images, None)
    return grids
