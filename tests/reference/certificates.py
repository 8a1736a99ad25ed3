"""Bounds written out in NumPy float64, value by value."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def unit_constant(b: float, points: int = 200_001) -> float:
    """Largest norm of the gradient of a B-cos unit: max over c of sqrt(c^(2B-2) (c^2 + B^2 (1 - c^2)))."""
    c = np.linspace(0, 1, points)
    return float(np.sqrt(c ** (2 * b - 2) * (c**2 + b**2 * (1 - c**2))).max())


def convolution_matrix(
    weight: Array, size: tuple[int, int], *, stride: int, padding: int, dilation: int, groups: int
) -> Array:
    """The matrix of a zero-padded convolution of images of this size, entry by entry."""
    outputs, per_group, height, width = weight.shape
    rows = [
        (s + 2 * padding - dilation * (k - 1) - 1) // stride + 1 for s, k in zip(size, (height, width), strict=True)
    ]
    matrix = np.zeros((outputs, *rows, per_group * groups, *size))
    for out, top, left in np.ndindex(outputs, *rows):
        first = out // (outputs // groups) * per_group
        for channel, down, across in np.ndindex(per_group, height, width):
            y, x = top * stride - padding + down * dilation, left * stride - padding + across * dilation
            if 0 <= y < size[0] and 0 <= x < size[1]:
                matrix[out, top, left, first + channel, y, x] += weight[out, channel, down, across]
    return matrix.reshape(outputs * rows[0] * rows[1], -1)


def intervals(image: Array, epsilon: float, layers: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    """Interval bounds of a network of linear layers with ReLUs between them, within linf and the pixel box."""
    low, high = np.clip(image - epsilon, 0, 1), np.clip(image + epsilon, 0, 1)
    for number, (weight, bias) in enumerate(layers):
        if number:
            low, high = np.maximum(low, 0), np.maximum(high, 0)
        rising, falling = np.maximum(weight, 0), np.minimum(weight, 0)
        low, high = rising @ low + falling @ high + bias, rising @ high + falling @ low + bias
    return low, high


def global_radius(image: Array, label: int, layers: Sequence[tuple[Array, Array]]) -> float:
    """Margin over the product of spectral norms, with the last layer's rows taken as differences (l2)."""
    values, constant = image, 1.0
    for weight, bias in layers[:-1]:
        values = np.maximum(weight @ values + bias, 0)
        constant *= float(np.linalg.norm(weight, 2))
    weight, bias = layers[-1]
    logits = weight @ values + bias
    others = [other for other in range(len(logits)) if other != label]
    return min(
        float(logits[label] - logits[other]) / (constant * float(np.linalg.norm(weight[label] - weight[other])))
        for other in others
    )
