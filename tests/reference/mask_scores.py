"""Scores of one map against one mask in NumPy float64, one pixel at a time."""

import math

import numpy as np
from numpy.typing import NDArray

Map = NDArray[np.float64]
Flags = NDArray[np.bool_]


def energy(values: Map, region: Flags, valid: Flags) -> float:
    inside = total = 0.0
    for pixel in np.ndindex(values.shape):
        if valid[pixel] and values[pixel] > 0:
            total += float(values[pixel])
            if region[pixel]:
                inside += float(values[pixel])
    return inside / total if total else math.nan


def area(region: Flags, valid: Flags) -> float:
    counted = [bool(region[pixel]) for pixel in np.ndindex(region.shape) if valid[pixel]]
    return sum(counted) / len(counted)


def average_precision(values: Map, region: Flags, valid: Flags) -> float:
    """Precision at each distinct value, weighted by the recall that it adds."""
    pixels = [(values[pixel], bool(region[pixel])) for pixel in np.ndindex(values.shape) if valid[pixel]]
    positives = sum(truth for _, truth in pixels)
    found = shown = 0
    total = 0.0
    for level in sorted({value for value, _ in pixels}, reverse=True):
        alike = [truth for value, truth in pixels if value == level]
        found, shown = found + sum(alike), shown + len(alike)
        total += sum(alike) / positives * found / shown
    return total


def iou(values: Map, region: Flags, valid: Flags, threshold: float) -> float:
    largest = max(float(values[pixel]) for pixel in np.ndindex(values.shape) if valid[pixel])
    if largest <= 0:
        return math.nan
    both = either = 0
    for pixel in np.ndindex(values.shape):
        if valid[pixel]:
            above = bool(values[pixel] >= threshold * largest)
            both += above and bool(region[pixel])
            either += above or bool(region[pixel])
    return both / either
