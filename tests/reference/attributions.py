"""Post-hoc explanations of one logit of one image in NumPy float64, closest to the papers' definitions."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Layers:
    """Matrices and offsets with one nonlinearity between them, on the flattened image."""

    matrices: list[Array]
    offsets: list[Array]
    nonlinearity: Callable[[Array], Array]
    slope: Callable[[Array], Array]

    def before(self, image: Array) -> list[Array]:
        """What each layer gives, before the nonlinearity; the last are the logits."""
        given: list[Array] = []
        for matrix, offset in zip(self.matrices, self.offsets, strict=True):
            taken = image.ravel() if not given else self.nonlinearity(given[-1])
            given.append(matrix @ taken + offset)
        return given

    def gradient(self, image: Array, target: int) -> Array:
        slopes = [self.slope(values) for values in self.before(image)[:-1]]
        return self.chained(slopes, target).reshape(image.shape)

    def chained(self, factors: list[Array], target: int) -> Array:
        """Product of the matrices, each nonlinearity replaced by its factors."""
        row = self.matrices[-1][target]
        for matrix, factor in zip(self.matrices[-2::-1], factors[::-1], strict=True):
            row = (row * factor) @ matrix
        return row


def integrated_gradients(network: Layers, image: Array, target: int, points: int) -> Array:
    """Sundararajan et al. (2017), eq. 1, by the midpoint rule; the baseline is 0."""
    total = np.zeros(image.shape)
    for point in range(points):
        total += network.gradient((point + 0.5) / points * image, target)
    return image * total / points


def rescale_rule(network: Layers, image: Array, target: int) -> Array:
    """DeepLIFT (Shrikumar et al., 2017), section 3.5.1: a nonlinearity multiplies by change of output / of input."""
    factors = []
    for here, there in zip(network.before(image)[:-1], network.before(np.zeros_like(image))[:-1], strict=True):
        factors.append((network.nonlinearity(here) - network.nonlinearity(there)) / (here - there))
    return image * network.chained(factors, target).reshape(image.shape)


def gradcam(maps: Array, gradients: Array, height: int, width: int) -> Array:
    """Selvaraju et al. (2017), eqs. 1 and 2, enlarged bilinearly; maps and gradients are (channel, row, column)."""
    coarse = np.zeros(maps.shape[1:])
    for channel in range(len(maps)):
        coarse += gradients[channel].mean() * maps[channel]
    return enlarged(np.maximum(coarse, 0), height, width)


def enlarged(values: Array, height: int, width: int) -> Array:
    """Bilinear interpolation between the centres of the coarse pixels, constant beyond the outermost ones."""
    fine = np.zeros((height, width))
    for i, j in np.ndindex(fine.shape):
        row = min(max((i + 0.5) * len(values) / height - 0.5, 0), len(values) - 1)
        column = min(max((j + 0.5) * values.shape[1] / width - 0.5, 0), values.shape[1] - 1)
        for r in (math.floor(row), math.floor(row) + 1):
            for c in (math.floor(column), math.floor(column) + 1):
                share = max(0, 1 - abs(row - r)) * max(0, 1 - abs(column - c))
                if share > 0:
                    fine[i, j] += share * values[r, c]
    return fine


def lime(
    logit: Callable[[Array], float], image: Array, present: Array, cells: int, width: float, ridge: float
) -> Array:
    """Ridge regression, weighted by nearness, of the logit on which squares are there (Ribeiro et al., 2016, eq. 2).

    Args:
        logit: of an image.
        image: (channel, row, column).
        present: (sample, square) of 0 and 1.
        cells: squares on a side, unless the image has fewer pixels there.
        width: of the kernel over the cosine distance to the whole image.
        ridge: penalty on the coefficients, not on the intercept.
    """
    squares = numbered(*image.shape[1:], cells)
    answers, nearness = np.zeros(len(present)), np.zeros(len(present))
    for sample, row in enumerate(present):
        mask = np.zeros(squares.shape)
        for pixel in np.ndindex(squares.shape):
            mask[pixel] = row[squares[pixel]]
        answers[sample] = logit(image * mask)
        everything = np.ones(len(row))
        length = math.sqrt(sum(row)) * math.sqrt(len(row))
        cosine = sum(row * everything) / length if length else 0.0
        nearness[sample] = math.exp(-((1 - cosine) ** 2) / width**2)
    inputs = present - nearness @ present / nearness.sum()
    outputs = answers - nearness @ answers / nearness.sum()
    normal = inputs.T @ (nearness[:, None] * inputs) + ridge * np.eye(present.shape[1])
    coefficients = np.linalg.solve(normal, inputs.T @ (nearness * outputs))
    shared = np.zeros(squares.shape)
    for pixel in np.ndindex(squares.shape):
        shared[pixel] = coefficients[squares[pixel]] / (squares == squares[pixel]).sum()
    return shared


def numbered(height: int, width: int, cells: int) -> NDArray[np.int64]:
    """The square of each pixel, row by row."""
    down, across = min(cells, height), min(cells, width)
    squares = np.zeros((height, width), dtype=np.int64)
    for i, j in np.ndindex(squares.shape):
        squares[i, j] = math.floor(i * down / height) * across + math.floor(j * across / width)
    return squares
