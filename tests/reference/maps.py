"""Differences of two contribution maps in NumPy float64, one pixel at a time.

Correlations are left to scipy. Where a measure is not defined the number is NaN.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Map = NDArray[np.float64]

WINDOW = 7
RANGE = 2.0


def cosine(first: Map, second: Map) -> float:
    product = squares = other_squares = 0.0
    for pixel in np.ndindex(first.shape):
        product += first[pixel] * second[pixel]
        squares += first[pixel] ** 2
        other_squares += second[pixel] ** 2
    if squares == 0 or other_squares == 0:
        return math.nan
    return product / (math.sqrt(squares) * math.sqrt(other_squares))


def pearson(first: Map, second: Map) -> float:
    return correlation(stats.pearsonr, first, second)


def spearman(first: Map, second: Map) -> float:
    return correlation(stats.spearmanr, first, second)


def correlation(oracle: Callable[..., Any], first: Map, second: Map) -> float:
    if np.ptp(first) == 0 or np.ptp(second) == 0:  # scipy warns
        return math.nan
    return float(oracle(first.ravel(), second.ravel()).statistic)


def topk(first: Map, second: Map) -> float:
    count = max(1, round(first.size / 10))
    tops = largest(first, count), largest(second, count)
    return len(tops[0] & tops[1]) / max(map(len, tops)) if all(tops) else math.nan


def largest(values: Map, count: int) -> set[int]:
    """Positions of the largest values, whole groups of equal ones: as many groups as come nearest to ``count``."""
    chosen: set[int] = set()
    for value in sorted(set(values.ravel().tolist()), reverse=True):
        equal = {position for position, other in enumerate(values.ravel()) if other == value}
        if chosen and len(chosen) + len(equal) - count > count - len(chosen):
            break
        chosen |= equal
        if len(chosen) >= count:
            break
    return chosen if len(chosen) < values.size else set()


def ssim(first: Map, second: Map) -> float:
    """Wang et al. (2004), eq. 13, K1 = 0.01 and K2 = 0.03, the mean over all pixels.

    The uniform window is centred at each pixel; beyond the border the map is its own mirror image. Deviations are
    those of the window itself, not of a sample.
    """
    if min(first.shape) < WINDOW:
        return math.nan
    maps = [values / (np.abs(values).max() or 1.0) for values in (first, second)]
    small, smaller = (0.01 * RANGE) ** 2, (0.03 * RANGE) ** 2
    total = 0.0
    for row, column in np.ndindex(first.shape):
        a, b = (window(values, row, column) for values in maps)
        covariance = np.mean((a - a.mean()) * (b - b.mean()))
        luminance = (2 * a.mean() * b.mean() + small) / (a.mean() ** 2 + b.mean() ** 2 + small)
        total += luminance * (2 * covariance + smaller) / (a.var() + b.var() + smaller)
    return total / first.size


def window(values: Map, row: int, column: int) -> Map:
    reach = WINDOW // 2
    found = np.zeros((WINDOW, WINDOW))
    for i, j in np.ndindex(found.shape):
        found[i, j] = values[mirrored(row + i - reach, len(values)), mirrored(column + j - reach, values.shape[1])]
    return found


def mirrored(index: int, size: int) -> int:
    """A position beyond the border, mirrored at the border's pixel, which is not repeated."""
    return abs(index) if index < size else 2 * (size - 1) - index


def mass(first: Map, second: Map) -> float:
    total = sum(abs(value) for value in first.flat)
    other_total = sum(abs(value) for value in second.flat)
    if total == 0 or other_total == 0:
        return math.nan
    return float(sum(abs(abs(first[p]) / total - abs(second[p]) / other_total) for p in np.ndindex(first.shape)))


def centre(first: Map, second: Map) -> float:
    row, column = mass_centre(first)
    other_row, other_column = mass_centre(second)
    return math.hypot(row - other_row, column - other_column)


def mass_centre(values: Map) -> tuple[float, float]:
    total = sum(abs(value) for value in values.flat)
    if total == 0:
        return math.nan, math.nan
    row = sum(i * abs(values[i, j]) for i, j in np.ndindex(values.shape)) / total
    column = sum(j * abs(values[i, j]) for i, j in np.ndindex(values.shape)) / total
    return float(row), float(column)


DIFFERENCES: dict[str, Callable[[Map, Map], float]] = {
    "centre": centre,
    "cosine": cosine,
    "mass": mass,
    "pearson": pearson,
    "spearman": spearman,
    "ssim": ssim,
    "topk": topk,
}
