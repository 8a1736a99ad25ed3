"""Projected gradient ascent on one image, in NumPy float64, on a network whose gradient is written out by hand."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tests.reference.losses import SLOPES, VALUES, Vector


@dataclass(frozen=True)
class TwoLayers:
    """logits = readout @ tanh(features @ (image - 1/2) + offset), on the flattened image."""

    features: NDArray[np.float64]
    offset: Vector
    readout: NDArray[np.float64]

    def logits(self, image: NDArray[np.float64]) -> Vector:
        return self.readout @ np.tanh(self.features @ (image.ravel() - 0.5) + self.offset)

    def gradient(self, image: NDArray[np.float64], slope: Vector) -> NDArray[np.float64]:
        """Derivative of slope @ logits by the image."""
        hidden = np.tanh(self.features @ (image.ravel() - 0.5) + self.offset)
        return (self.features.T @ ((1 - hidden**2) * (self.readout.T @ slope))).reshape(image.shape)


def iterates(
    network: TwoLayers,
    image: NDArray[np.float64],
    label: int,
    *,
    norm: str,
    epsilon: float,
    step_size: float,
    steps: int,
    loss: str,
) -> list[NDArray[np.float64]]:
    """The image and what each step makes of it: step, ball, pixel box."""
    path = [image]
    for _ in range(steps):
        gradient = network.gradient(path[-1], SLOPES[loss](network.logits(path[-1]), label))
        delta = path[-1] + step_size * steepest(gradient, norm) - image
        path.append(np.clip(image + nearest(delta, norm, epsilon), 0, 1))
    return path


def steepest(gradient: NDArray[np.float64], norm: str) -> NDArray[np.float64]:
    if norm == "linf":
        return np.sign(gradient)
    return gradient / float(np.sqrt(np.sum(gradient**2)))


def nearest(delta: NDArray[np.float64], norm: str, epsilon: float) -> NDArray[np.float64]:
    if norm == "linf":
        return np.clip(delta, -epsilon, epsilon)
    length = float(np.sqrt(np.sum(delta**2)))
    return delta if length <= epsilon else delta * (epsilon / length)


def adversarial(
    network: TwoLayers, path: list[NDArray[np.float64]], label: int, *, loss: str, select: str
) -> NDArray[np.float64]:
    """The iterate that is selected."""
    if select == "last":
        return path[-1]
    if select == "best_loss":
        best = path[0]
        for image in path[1:]:
            if VALUES[loss](network.logits(image), label) > VALUES[loss](network.logits(best), label):
                best = image
        return best
    for image in path:
        if np.argmax(network.logits(image)) != label:
            return image
    return path[-1]
