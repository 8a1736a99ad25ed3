"""How steady explanations are from frame to frame, against correlations taken one pair and one pixel at a time."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustbench_bcos.explanations.stability import Stability, stability
from tests.reference.maps import pearson

FRAMES, HEIGHT, WIDTH = 6, 5, 4

Array = NDArray[np.float64]


def frames(seed: int = 0) -> Array:
    return np.random.default_rng(seed).uniform(size=(FRAMES, 3, HEIGHT, WIDTH))


def maps(seed: int = 1) -> Array:
    return np.random.default_rng(seed).normal(size=(FRAMES, HEIGHT, WIDTH))


def measure(images: Array, contributions: Array) -> Stability:
    return stability(torch.from_numpy(images), torch.from_numpy(contributions))


def neighbours(pictures: Array) -> float:
    """Mean correlation of each picture with the next, of those that have one."""
    found = [pearson(pictures[i], pictures[i + 1]) for i in range(len(pictures) - 1)]
    defined = [value for value in found if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan


def twin(images: Array, contributions: Array) -> Stability:
    grey = np.stack([(red + green + blue) / 3 for red, green, blue in images])
    return Stability(neighbours(contributions), neighbours(grey))


def same(found: Stability, expected: Stability) -> None:
    # float64, and sums of 20 products.
    assert tuple(found) == pytest.approx(tuple(expected), rel=1e-12, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("seed", range(5))
def test_stability_is_what_its_definition_says(seed: int) -> None:
    images, contributions = frames(seed), maps(seed + 100)
    # Neighbours that have something in common, with pairs far apart in how much.
    contributions = contributions.cumsum(axis=0)
    same(measure(images, contributions), twin(images, contributions))


def test_equal_frames_with_equal_maps_are_perfectly_stable() -> None:
    images, contributions = (np.repeat(found[:1], FRAMES, axis=0) for found in (frames(), maps()))
    same(measure(images, contributions), Stability(1, 1))


def test_maps_and_frames_are_counted_apart() -> None:
    still, steady = (np.repeat(found[:1], FRAMES, axis=0) for found in (frames(), maps()))
    assert measure(still, maps()).frames == pytest.approx(1, abs=1e-12)
    assert measure(still, maps()).maps < 0.5
    assert measure(frames(), steady).maps == pytest.approx(1, abs=1e-12)
    assert measure(frames(), steady).frames < 0.5


def test_maps_that_turn_around_at_each_frame_are_as_unstable_as_can_be() -> None:
    signs = (-1.0) ** np.arange(FRAMES)
    contributions = signs[:, None, None] * maps()[:1]
    assert measure(frames(), contributions).maps == pytest.approx(-1, abs=1e-12)


def test_neighbours_alone_are_compared() -> None:
    """Two kinds of map, each for half of the time: one change in five, whatever the halves have in common."""
    first, second = maps()[:2]
    halves = np.stack([first, first, first, second, second, second])
    assert measure(frames(), halves).maps == pytest.approx((4 + pearson(first, second)) / 5, rel=1e-12)


def test_brightness_and_scale_do_not_count() -> None:
    random = np.random.default_rng(7)
    scale, offset = random.uniform(0.1, 1, size=(2, FRAMES, 1, 1))
    changed = measure(frames() * scale[:, None] + offset[:, None], maps() * scale + offset)
    same(changed, measure(frames(), maps()))


def test_colours_are_averaged_before_frames_are_compared() -> None:
    images = frames()
    same(measure(images[:, [2, 0, 1]], maps()), measure(images, maps()))
    grey = np.repeat(images.mean(axis=1, keepdims=True), 3, axis=1)
    same(measure(grey, maps()), measure(images, maps()))


def test_a_constant_map_is_left_out_of_the_mean() -> None:
    contributions = maps().cumsum(axis=0)
    contributions[2] = 0.3
    images = frames()
    images[4] = 1
    found = measure(images, contributions)
    same(found, twin(images, contributions))
    assert np.isfinite(found).all()


def test_constant_maps_have_no_stability() -> None:
    found = measure(np.full_like(frames(), 0.5), np.zeros_like(maps()))
    assert math.isnan(found.maps)
    assert math.isnan(found.frames)


def test_two_frames_are_one_comparison() -> None:
    images, contributions = frames()[:2], maps()[:2]
    assert measure(images, contributions).maps == pytest.approx(pearson(*contributions), rel=1e-12)


def test_numbers_are_plain_and_what_is_compared_is_left_alone() -> None:
    images, contributions = torch.from_numpy(frames()).float(), torch.from_numpy(maps()).float()
    before: list[Tensor] = [images.clone(), contributions.clone()]
    found = stability(images, contributions)
    assert all(type(value) is float for value in found)
    assert torch.equal(images, before[0])
    assert torch.equal(contributions, before[1])
    # Correlations are taken in float64; the average of channels is rounded to float32.
    assert tuple(found) == pytest.approx(tuple(twin(images.double().numpy(), contributions.double().numpy())), abs=1e-6)
