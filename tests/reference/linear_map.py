"""W(x) of a small B-cos network in NumPy float64, by columns: the network applied to unit vectors, its gates recorded.

The network is B-cos 3x3 convolutions, group norms over all channels without bias, and 2x2 max pooling, in any order,
then the mean over positions.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Layer = tuple[str, dict[str, Any]]


def rows(layers: list[Layer], image: Array) -> Array:
    """W(x) of one encoded image (channel, height, width): (class, channel, height, width)."""
    gates = record(layers, image)
    columns = np.eye(image.size).reshape(image.size, *image.shape)
    answers = np.stack([linear(layers, gates, column) for column in columns])
    return answers.T.reshape(-1, *image.shape)


def record(layers: list[Layer], features: Array) -> list[Array]:
    gates = []
    for kind, settings in layers:
        if kind == "bcos":
            responses = convolve(features, unit(settings["weight"]))
            energy = convolve(features**2, np.ones((1, *settings["weight"].shape[1:])))
            gates.append((np.abs(responses) / np.sqrt(energy + 1e-6)) ** (settings["b"] - 1))
        elif kind == "norm":
            gates.append(np.asarray(np.sqrt(features.var() + 1e-5)))
        else:
            gates.append(winners(features))
        features = step(kind, settings, gates[-1], features)
    return gates


def linear(layers: list[Layer], gates: list[Array], features: Array) -> Array:
    for (kind, settings), gate in zip(layers, gates, strict=True):
        features = step(kind, settings, gate, features)
    return np.asarray(features.mean(axis=(1, 2)))


def step(kind: str, settings: dict[str, Any], gate: Array, features: Array) -> Array:
    if kind == "bcos":
        return np.asarray(gate * convolve(features, unit(settings["weight"])))
    if kind == "norm":
        return np.asarray((features - features.mean()) / gate)
    return np.asarray(np.take_along_axis(windows(features), gate.astype(int)[..., None], axis=-1)[..., 0])


def unit(weight: Array) -> Array:
    return np.stack([filters / np.sqrt((filters**2).sum()) for filters in weight])


def convolve(features: Array, weight: Array) -> Array:
    padded = np.pad(features, ((0, 0), (1, 1), (1, 1)))
    height, width = features.shape[1:]
    total = np.zeros((len(weight), height, width))
    for row in range(3):
        for column in range(3):
            total += np.einsum(
                "oc,chw->ohw", weight[:, :, row, column], padded[:, row : row + height, column : column + width]
            )
    return total


def windows(features: Array) -> Array:
    channels, height, width = features.shape
    split = features.reshape(channels, height // 2, 2, width // 2, 2)
    return np.asarray(split.transpose(0, 1, 3, 2, 4).reshape(channels, height // 2, width // 2, 4))


def winners(features: Array) -> Array:
    return np.asarray(windows(features).argmax(axis=-1), dtype=float)
