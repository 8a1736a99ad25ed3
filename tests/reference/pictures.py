"""The picture of one explanation in NumPy float64, one pixel at a time (Böhle et al., 2022, and the published code)."""

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

TINY = 1e-12


def picture(weights: Array, contributions: Array, window: int) -> Array:
    """(height, width, 4) of weights on (r, g, b, 1-r, 1-g, 1-b)."""
    strength = np.zeros(contributions.shape)
    drawn = np.zeros((*contributions.shape, 4))
    for pixel in np.ndindex(contributions.shape):
        here = weights[(slice(None), *pixel)]
        most = max(abs(weight) for weight in here)
        for channel in range(3):
            wanted = max(0.0, here[channel] / (most + TINY))
            unwanted = max(0.0, here[channel + 3] / (most + TINY))
            drawn[(*pixel, channel)] = wanted / (wanted + unwanted + TINY)
        norm = math.sqrt(sum(weight**2 for weight in here))
        strength[pixel] = TINY if contributions[pixel] < 0 else norm
    drawn[..., 3] = opacity(smoothed(strength, window))
    return drawn


def smoothed(values: Array, window: int) -> Array:
    """Mean over a window, zeros beyond the border counted; an even one reaches further to the right and below."""
    before = (window - 1) // 2
    means = np.zeros(values.shape)
    for row, column in np.ndindex(values.shape):
        total = 0.0
        for i in range(row - before, row - before + window):
            for j in range(column - before, column - before + window):
                if 0 <= i < len(values) and 0 <= j < values.shape[1]:
                    total += values[i, j]
        means[row, column] = total / window**2
    return means


def opacity(values: Array) -> Array:
    """Share of the 99.5 % quantile, between the two nearest ranks, and no more than 1."""
    ranked = sorted(values.flat)
    rank = 0.995 * (len(ranked) - 1)
    low = math.floor(rank)
    high = min(low + 1, len(ranked) - 1)
    quantile = ranked[low] + (rank - low) * (ranked[high] - ranked[low])
    return np.clip(values / max(quantile, TINY), 0, 1)
