"""The B-cos transform in NumPy float64, one number at a time (Böhle et al., 2022, eq. 3).

For a patch x and a filter v, with w = v / |v|:  B-cos(x; w) = |cos(x, w)|^(B-1) * w.x, the largest of ``max_out``
consecutive w.x standing for w.x. The three epsilons are those of the published networks.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Pair = tuple[int, int]


def bcos_conv2d(
    images: Array,
    filters: Array,
    *,
    b: float,
    max_out: int = 1,
    stride: Pair = (1, 1),
    padding: tuple[Pair, Pair] = ((0, 0), (0, 0)),
    dilation: Pair = (1, 1),
    groups: int = 1,
    padding_mode: str = "zeros",
) -> Array:
    """B-cos convolution of (image, channel, height, width); padding is (top, bottom), (left, right)."""
    count, channels, height, width = images.shape
    rows, columns = filters.shape[2:]
    outputs = len(filters) // max_out
    high = (height + sum(padding[0]) - dilation[0] * (rows - 1) - 1) // stride[0] + 1
    wide = (width + sum(padding[1]) - dilation[1] * (columns - 1) - 1) // stride[1] + 1
    result = np.zeros((count, outputs, high, wide))
    for n, o, i, j in np.ndindex(result.shape):
        group = o // (outputs // groups)
        patch = np.zeros(filters.shape[1:])
        for c, r, s in np.ndindex(patch.shape):
            row = source(i * stride[0] + r * dilation[0] - padding[0][0], height, padding_mode)
            column = source(j * stride[1] + s * dilation[1] - padding[1][0], width, padding_mode)
            if row is not None and column is not None:
                patch[c, r, s] = images[n, group * (channels // groups) + c, row, column]
        norm = np.sqrt(sum(value**2 for value in patch.flat) + 1e-6)
        result[n, o, i, j] = respond(patch.ravel(), unit_filters(filters, o, max_out), norm, b)
    return result


def bcos_conv2d_gradient(
    images: Array, filters: Array, gradients: Array, *, b: float, max_out: int, form: dict[str, Any]
) -> Array:
    """Gradient by the images of the outputs of :func:`bcos_conv2d`, weighted with ``gradients``, patch by patch."""
    stride, (top, _), (left, _) = form["stride"], *form["padding"]
    dilation, groups = form["dilation"], form["groups"]
    result = np.zeros_like(images)
    height, width = images.shape[2:]
    channels = images.shape[1] // groups
    outputs = len(filters) // max_out
    for n, o, i, j in np.ndindex(gradients.shape):
        first = o // (outputs // groups) * channels
        seen = {
            (c, r, s): (n, first + c, i * stride[0] + r * dilation[0] - top, j * stride[1] + s * dilation[1] - left)
            for c, r, s in np.ndindex(filters.shape[1:])
        }
        seen = {at: place for at, place in seen.items() if 0 <= place[2] < height and 0 <= place[3] < width}
        norm = np.sqrt(sum(images[place] ** 2 for place in seen.values()) + 1e-6)
        units = [unit.reshape(filters.shape[1:]) for unit in unit_filters(filters, o, max_out)]
        products = [sum(unit[at] * images[place] for at, place in seen.items()) for unit in units]
        a, unit = max(zip(products, units, strict=True), key=lambda pair: pair[0])
        epsilon = 0 if b == 2 else 1e-6
        cosine = abs(a) / norm + epsilon
        by_response = cosine ** (b - 1) + (b - 1) * cosine ** (b - 2) * abs(a) / norm
        by_norm = -(b - 1) * cosine ** (b - 2) * abs(a) * a / norm**2
        for at, place in seen.items():
            result[place] += gradients[n, o, i, j] * (by_response * unit[at] + by_norm * images[place] / norm)
    return result


def bcos_linear(rows: Array, filters: Array, *, b: float, max_out: int = 1) -> Array:
    """B-cos linear layer on (row, feature)."""
    result = np.zeros((len(rows), len(filters) // max_out))
    for n, o in np.ndindex(result.shape):
        norm = np.sqrt(sum(value**2 for value in rows[n])) + 1e-12
        result[n, o] = respond(rows[n], unit_filters(filters, o, max_out), norm, b)
    return result


def respond(patch: Array, units: Iterator[Array], norm: float, b: float) -> float:
    """Response to one patch of the filters that compete for one output."""
    product = max(float(sum(unit * patch)) for unit in units)
    if b == 1:
        return product
    if b == 2:
        return abs(product) / norm * product
    return float((abs(product / norm) + 1e-6) ** (b - 1) * product)


def unit_filters(filters: Array, output: int, max_out: int) -> Iterator[Array]:
    """The filters of one output, each divided by its norm; a filter of zeros stays one."""
    for row in filters[output * max_out : (output + 1) * max_out]:
        norm = np.sqrt(sum(value**2 for value in row.flat))
        yield row.ravel() / norm if norm > 0 else row.ravel()


def source(index: int, size: int, mode: str) -> int | None:
    """Where a pixel outside the image is taken from, along one axis; None for a zero."""
    if mode == "reflect":
        return abs(index) if index < size else 2 * (size - 1) - index
    if mode == "replicate":
        return min(max(index, 0), size - 1)
    if mode == "circular":
        return index % size
    return index if 0 <= index < size else None
