"""The l1 ball within the pixel box, one image at a time, in NumPy float64.

Projection, the best attack on a linear model, l1-APGD, and Square's moves.
"""

import math

import numpy as np
from numpy.typing import NDArray

from tests.reference.losses import SLOPES, VALUES
from tests.reference.pgd import TwoLayers
from tests.reference.square import corner, sign, window

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


def square_start(shape: tuple[int, int, int], numbers: list[float]) -> Image:
    """Deltas with which Square begins, before they are projected; all signs are drawn before all directions."""
    channels, height, width = shape
    side = max(min(height, width) // 5, 1)
    rows, columns = height // side, width // side
    top, left = (height - rows * side) // 2, (width - columns * side) // 2
    turns = numbers[channels * rows * columns :]
    delta = np.zeros(shape)
    for channel in range(channels):
        for row in range(rows):
            for column in range(columns):
                pattern = sign(numbers.pop(0)) * pyramids(side, turned=turns[row * columns + column] >= 0.5)
                for place, value in np.ndenumerate(pattern):
                    delta[channel, top + row * side + place[0], left + column * side + place[1]] = value
    return delta


def square_move(delta: Image, epsilon: float, side: int, numbers: list[float]) -> Image:
    """Deltas that Square tries next, before they are projected (AutoAttack's code)."""
    channels, height, width = delta.shape
    target, source = (window(corner(numbers, height, width, side), side) for _ in range(2))
    unspent = max(epsilon - np.abs(delta).sum(), 0) / channels
    moved = delta.copy()
    for row, column in source:
        moved[:, row, column] = 0
    for channel in range(channels):
        held = sum(abs(delta[channel, row, column]) for row, column in set(target) | set(source))
        old = np.array([delta[channel, row, column] for row, column in target]).reshape(side, side)
        new = sign(numbers[channel]) * pyramids(side, turned=numbers[channels] >= 0.5) + shares(old)
        for (row, column), value in zip(target, shares(new).ravel(), strict=True):
            moved[channel, row, column] = value * (held + unspent) * channels
    return moved


def pyramids(side: int, *, turned: bool) -> Image:
    """One up and one down, whose sizes add up to 1."""
    both = np.zeros((side, side))
    both[: side // 2] = shares(pyramid(side // 2, side))
    both[side // 2 :] = -shares(pyramid(side - side // 2, side))
    return shares(both.T if turned else both)


def pyramid(height: int, width: int) -> Image:
    """Squares around the middle, each by 1 / (k + 1)^4 higher than the next larger one."""
    built = np.zeros((height, width))
    for k in range(max(height // 2, width // 2) + 1):
        for row in range(height):
            for column in range(width):
                if abs(row - height // 2) <= k and abs(column - width // 2) <= k:
                    built[row, column] += 1 / (k + 1) ** 4
    return built


def shares(values: Image) -> Image:
    """Divided by the sum of their sizes."""
    total = float(np.abs(values).sum())
    return values / total if total > 0 else values
