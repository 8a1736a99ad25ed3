"""How steady explanations are from one frame of a moving picture to the next."""

from typing import NamedTuple

from robustbench_bcos.core.types import Images, Maps
from robustbench_bcos.explanations.similarity import pearson


class Stability(NamedTuple):
    """Mean Pearson correlation of neighbouring frames; NaN where none is defined.

    A correlation, because cosines of pictures are all near 1: pixels have one sign.
    """

    maps: float
    """Of their contribution maps, for one class."""
    frames: float
    """Of the frames themselves, channels averaged: maps need not be steadier than what they explain."""


def stability(frames: Images, contributions: Maps) -> Stability:
    """Compare each frame, and its map, with the next."""
    grey = frames.mean(dim=1)
    between_maps = pearson(contributions[:-1], contributions[1:]).nanmean()
    return Stability(float(between_maps), float(pearson(grey[:-1], grey[1:]).nanmean()))
