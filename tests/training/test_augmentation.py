"""Flips and crops: each result is one of the possible ones, each possible one comes up, and the generator decides."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_bcos.training.augmentation import augment
from robustbench_bcos.training.recipes import Augmentation

AUGMENTATIONS = [Augmentation(flip=flip, crop=crop) for flip, crop in itertools.product((False, True), (0, 1, 3))]


def images(count: int = 7, *, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, 5, 6, generator=torch.Generator().manual_seed(seed))


def randomness(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def possible(image: Tensor, augmentation: Augmentation) -> list[Tensor]:
    """Every variant of one image."""
    _, height, width = image.shape
    flips = [image, image.flip(2)] if augmentation.flip else [image]
    padded = [F.pad(flip, (augmentation.crop,) * 4) for flip in flips]
    offsets = list(itertools.product(range(2 * augmentation.crop + 1), repeat=2))
    return [pad[:, top : top + height, left : left + width] for pad in padded for top, left in offsets]


@pytest.mark.parametrize("augmentation", AUGMENTATIONS, ids=str)
def test_each_image_becomes_a_possible_variant_of_itself(augmentation: Augmentation) -> None:
    given = images()
    changed = augment(given.clone(), augmentation, randomness())
    assert changed.shape == given.shape
    assert changed.dtype == given.dtype
    assert changed.min() >= 0
    assert changed.max() <= 1
    for image, variant in zip(given, changed, strict=True):
        assert any(torch.equal(variant, option) for option in possible(image, augmentation))


@pytest.mark.parametrize("augmentation", AUGMENTATIONS, ids=str)
def test_every_variant_comes_up_about_equally_often(augmentation: Augmentation) -> None:
    options = possible(images(1)[0], augmentation)
    draws = 40 * len(options)
    changed = augment(images(1).expand(draws, -1, -1, -1), augmentation, randomness())
    counts = torch.stack([(changed == option).flatten(1).all(dim=1).sum() for option in options])
    assert counts.sum() == draws
    # 40 are expected of each, with a deviation of less than 6.4: five deviations either way.
    assert counts.min() >= 8 or len(options) == 1
    assert counts.max() <= 72 or len(options) == 1


@pytest.mark.parametrize("augmentation", AUGMENTATIONS, ids=str)
def test_the_generator_decides_and_the_images_stay_as_they_are(augmentation: Augmentation) -> None:
    given = images(31)
    before = given.clone()
    first, again, other = (augment(given, augmentation, randomness(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (augmentation == Augmentation())
    assert torch.equal(given, before)


def test_images_of_a_batch_are_changed_independently() -> None:
    same = images(1).expand(50, -1, -1, -1)
    changed = augment(same, Augmentation(flip=True, crop=1), randomness())
    assert len(changed.unique(dim=0)) > 10


def test_no_augmentation_changes_nothing() -> None:
    assert torch.equal(augment(images(), Augmentation(), randomness()), images())


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    augment(images(), Augmentation(flip=True, crop=2), randomness())
    assert torch.equal(torch.get_rng_state(), before)
