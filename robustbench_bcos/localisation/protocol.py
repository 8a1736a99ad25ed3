"""How a map becomes a score in the grid pointing game. Definitions differ from paper to paper: one file for each."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from robustbench_bcos.core.deferred import torch
from robustbench_bcos.core.rng import generator
from robustbench_bcos.core.types import Float, Tensor
from robustbench_bcos.localisation.game import Explainer, Scores, TargetMaps
from robustbench_bcos.localisation.scene import Box, PerTarget

Candidates = Mapping[int, Sequence[tuple[int, float]]]
"""Places of images and confidences in their label, by class."""

Grids = list[tuple[int, ...]]
"""Places of the images of each grid."""

SHARE = "share"
"""The one measure of the game: the part of a map's positive contributions that is in the cell of its class."""


class AbstractProtocol(ABC):
    """A definition of the score; a new one is registered in ``PROTOCOLS``.

    Attributes:
        column_major: whether the second image of a grid lies below the first, and not to the right of it.
        whole: whether models are shown whole grids, which those of one size do not take.
    """

    name: ClassVar[str]
    column_major: ClassVar[bool] = False
    whole: ClassVar[bool] = True

    @abstractmethod
    def kernel(self, cell: int) -> int:
        """Side of the smoothing window for cells of this side, in pixels; 1 does not smooth."""

    def shown(self, picture: Tensor, cells: Sequence[Box]) -> Tensor:
        """What a model is shown of a picture at once: all of it, which models of one size do not take."""
        return picture

    def maps(self, explainer: Explainer, pictures: Tensor, targets: Tensor, cells: Sequence[Box]) -> Tensor:
        """A map for each target of each picture, all from one prediction."""
        return explainer(pictures, targets)

    def deal(self, candidates: Candidates, cells: int, seed: int) -> Grids:
        """Grids of a model's own, of the images it is sure about; shared ones are dealt alike under all protocols.

        Args:
            candidates: places and confidences of the images that may be used, by class.
            cells: of a grid.
            seed: of what is drawn.
        """
        return deal(candidates, cells, seed)

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
    return torch.nn.functional.avg_pool2d(maps[:, None], kernel, stride=1, padding=(kernel - 1) // 2)[:, 0]


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


def deal(candidates: Candidates, cells: int, seed: int) -> Grids:
    """As many grids of distinct classes as there are images for, each image in one grid at most.

    Classes with most images left come first, those with as many in random order, so that no class runs out early. How
    sure a model is of an image changes nothing.
    """
    left = {
        label: _shuffled([place for place, _ in images], seed, "images", label)
        for label, images in sorted(candidates.items())
    }
    grids: Grids = []
    while len(able := [label for label, places in left.items() if places]) >= cells:
        drawn = _shuffled(able, seed, "classes", len(grids))
        chosen = sorted(drawn, key=lambda label: len(left[label]), reverse=True)[:cells]
        grids.append(tuple(left[label].pop() for label in _shuffled(chosen, seed, "cells", len(grids))))
    return grids


def _shuffled(values: list[int], *key: int | str) -> list[int]:
    order = torch.randperm(len(values), generator=generator(*key)).tolist()
    return [values[place] for place in order]
