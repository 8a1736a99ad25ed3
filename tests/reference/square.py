"""Square (Andriushchenko et al., 2020, algorithms 1 to 3) on one image, in NumPy float64, pixel by pixel."""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tests.reference.losses import Vector, margin

Image = NDArray[np.float64]


def queries(
    logits: Callable[[Image], Vector],
    image: Image,
    label: int,
    *,
    norm: str,
    epsilon: float,
    first: Vector,
    moves: NDArray[np.float64],
) -> list[Image]:
    """All that is asked, up to what fools; one row of ``moves`` holds the random numbers of one move."""
    begin, move = {"linf": (stripes, linf_move), "l2": (tiles, l2_move)}[norm]
    asked = [best := begin(image, epsilon, list(first))]
    best_margin = margin(logits(best), label)
    for number, row in enumerate(moves):
        if np.argmax(logits(best)) != label:
            break
        asked.append(move(image, best, epsilon, share_of(number), list(row)))
        if (tried := margin(logits(asked[-1]), label)) > best_margin:
            best, best_margin = asked[-1], tried
    return asked


def share_of(move: int) -> float:
    """Of the pixels, in the window of a move."""
    share = 0.8
    for after in (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000):
        if move > after:
            share /= 2
    return share


def stripes(image: Image, epsilon: float, numbers: list[float]) -> Image:
    channels, _, width = image.shape
    asked = image.copy()
    for channel in range(channels):
        for column in range(width):
            asked[channel, :, column] += epsilon * sign(numbers.pop(0))
    return np.clip(asked, 0, 1)


def linf_move(image: Image, best: Image, epsilon: float, share: float, numbers: list[float]) -> Image:
    channels, height, width = image.shape
    side = min(max(round(math.sqrt(share * height * width)), 1), height, width)
    top, left = corner(numbers, height, width, side)
    asked = best.copy()
    for channel in range(channels):
        asked[channel, top : top + side, left : left + side] += 2 * epsilon * sign(numbers.pop(0))
    return np.clip(np.clip(asked, image - epsilon, image + epsilon), 0, 1)


def tiles(image: Image, epsilon: float, numbers: list[float]) -> Image:
    """All signs are drawn before all directions."""
    channels, height, width = image.shape
    side = max(min(height, width) // 5, 1)
    rows, columns = height // side, width // side
    top, left = (height - rows * side) // 2, (width - columns * side) // 2
    signs, turns = numbers[: channels * rows * columns], numbers[channels * rows * columns :]
    delta = np.zeros_like(image)
    for channel in range(channels):
        for row in range(rows):
            for column in range(columns):
                where = channel, slice(top + row * side, top + (row + 1) * side), slice(left + column * side, None)
                pattern = pyramids(side, turned=turns[row * columns + column] >= 0.5)
                delta[where][:, :side] = sign(signs[(channel * rows + row) * columns + column]) * pattern
    return np.clip(image + epsilon * unit(delta), 0, 1)


def l2_move(image: Image, best: Image, epsilon: float, share: float, numbers: list[float]) -> Image:
    channels, height, width = image.shape
    side = max(round(math.sqrt(share * height * width)), 3)
    side += 1 - side % 2
    while side > min(height, width):
        side -= 2
    delta = best - image
    target, source = (window(corner(numbers, height, width, side), side) for _ in range(2))
    signs, turn = numbers[:channels], numbers[channels]
    unspent = max(epsilon**2 - np.sum(delta**2), 0) / channels
    added = np.zeros((channels, side, side))
    for channel in range(channels):
        held = sum(delta[channel, row, column] ** 2 for row, column in set(target) | set(source))
        old = unit(np.array([delta[channel, row, column] for row, column in target]).reshape(side, side))
        new = sign(signs[channel]) * pyramids(side, turned=turn >= 0.5) + old
        added[channel] = unit(new) * math.sqrt(held + unspent)
    for row, column in source:
        delta[:, row, column] = 0
    for place, (row, column) in enumerate(target):
        delta[:, row, column] = added[:, place // side, place % side]
    return np.clip(image + delta, 0, 1)


def pyramids(side: int, *, turned: bool) -> Image:
    """One up and one down, of norm 1 together."""
    both = np.zeros((side, side))
    both[: side // 2] = pyramid(side // 2, side)
    both[side // 2 :] = -pyramid(side - side // 2, side)
    return unit(both.T if turned else both)


def pyramid(height: int, width: int) -> Image:
    """Squares around the middle, each by 1 / (k + 1)^2 higher than the next larger one; of norm 1."""
    built = np.zeros((height, width))
    for k in range(max(height // 2, width // 2) + 1):
        for row in range(height):
            for column in range(width):
                if abs(row - height // 2) <= k and abs(column - width // 2) <= k:
                    built[row, column] += 1 / (k + 1) ** 2
    return unit(built)


def corner(numbers: list[float], height: int, width: int, side: int) -> tuple[int, int]:
    return int(numbers.pop(0) * (height - side + 1)), int(numbers.pop(0) * (width - side + 1))


def window(at: tuple[int, int], side: int) -> list[tuple[int, int]]:
    return [(at[0] + row, at[1] + column) for row in range(side) for column in range(side)]


def unit(values: Image) -> Image:
    norm = math.sqrt(np.sum(values**2))
    return values / norm if norm > 0 else values


def sign(number: float) -> float:
    return -1.0 if number < 0.5 else 1.0
