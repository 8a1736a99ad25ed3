"""The l1 ball within the pixel box, one image at a time, in NumPy float64: projection, best linear attack, l1-APGD."""

import math

import numpy as np
from numpy.typing import NDArray

from tests.reference.losses import SLOPES, VALUES
from tests.reference.pgd import TwoLayers

Image = NDArray[np.float64]


def nearest(image: Image, delta: Image, epsilon: float) -> Image:
    """The delta nearest to the given one, found by bisection on how much all changes are shortened."""

    def shortened(amount: float) -> Image:
        return np.clip(np.sign(delta) * np.maximum(np.abs(delta) - amount, 0), -image, 1 - image)

    low, high = 0.0, float(np.abs(delta).max())
    if np.abs(shortened(low)).sum() <= epsilon:
        return shortened(low)
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.abs(shortened(middle)).sum() > epsilon else (low, middle)
    return shortened(high)


def best_linear(image: Image, slope: Image, epsilon: float) -> Image:
    """The allowed delta of largest inner product with the slope: the steepest pixels first, each to its end."""
    delta, left = np.zeros(image.size), epsilon
    pixels, slopes = image.ravel(), slope.ravel()
    for pixel in np.argsort(-np.abs(slopes)):
        room = 1 - pixels[pixel] if slopes[pixel] > 0 else pixels[pixel]
        delta[pixel] = np.sign(slopes[pixel]) * min(room, left)
        left -= abs(delta[pixel])
    return delta.reshape(image.shape)


def apgd(network: TwoLayers, image: Image, label: int, path: list[Image], *, epsilon: float, loss: str) -> list[Image]:
    """Where l1-APGD (Croce & Hein, 2021, algorithm 1) goes from each iterate of a path but the last.

    It leaves out what the pixel box blocks. Each step begins where the path is, and not where the one before it ended:
    otherwise a rounding would decide, some steps later, whether a pixel is back at its start.
    """
    steps = len(path) - 1
    best, best_loss = path[0], -math.inf
    moved, changed, step_size = math.ceil(image.size / 5), image.size, epsilon
    following = []
    for step, at in enumerate(path[:-1]):
        logits = network.logits(at)
        if VALUES[loss](logits, label) > best_loss:
            best, best_loss = at, VALUES[loss](logits, label)
        if step > 0 and step % max(steps * 4 // 100, 1) == 0:
            now = int((best != image).sum())
            if now < 0.95 * changed:
                step_size, at = epsilon, best
            else:
                step_size = max(step_size / 1.5, epsilon / 10)
            moved, changed = max(math.ceil(now / 1.5), 1), now
        gradient = network.gradient(at, SLOPES[loss](network.logits(at), label))
        gradient = np.where(np.where(gradient > 0, at < 1, at > 0), gradient, 0)
        least = np.sort(np.abs(gradient).ravel())[-moved]
        direction = np.sign(gradient) * (np.abs(gradient) >= least)
        ahead = at + step_size * direction / np.abs(direction).sum()
        following.append(image + nearest(image, ahead - image, epsilon))
    return following
