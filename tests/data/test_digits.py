"""The embedded digits: a split that is the same for everyone, and pixels that are scikit-learn's."""

from collections import Counter
from typing import get_args

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from robustbench_bcos.data.dataset import Split
from robustbench_bcos.data.datasets.digits import Digits
from robustbench_bcos.data.opening import open_dataset
from robustbench_bcos.data.subset import EvalSubset

SPLITS: tuple[Split, ...] = get_args(Split)

TEST_DIGEST = "7b4a0756bff9c0c62132b75ebe6604fa94e84f37bee57a711492d0a242ff0767"
"""Changes when, and only when, published numbers on the digits are no longer comparable."""


def whole(split: Split) -> tuple[np.ndarray, list[int]]:
    digits = Digits(split)
    return torch.stack([digits.read(index) for index in range(len(digits))]).numpy(), digits.labels


@pytest.mark.parametrize("split", SPLITS)
def test_images_are_rgb_of_8_by_8_with_17_grey_levels(split: Split) -> None:
    images, _ = whole(split)
    assert images.dtype == np.float32
    assert images.shape == (len(Digits(split)), 3, 8, 8)
    assert set(np.unique(images * 16)) == set(range(17))
    assert (images == images[:, :1]).all()


def test_the_two_parts_are_disjoint_and_together_all_of_scikit_learns_digits() -> None:
    bunch = load_digits()
    known = Counter((label, image.tobytes()) for image, label in zip(bunch.images, bunch.target.tolist(), strict=True))
    parts = []
    for split in SPLITS:
        images, labels = whole(split)
        # Dividing by 16 and multiplying again is exact.
        grey = images[:, 0].astype(np.float64) * 16
        parts.append(Counter((label, image.tobytes()) for image, label in zip(grey, labels, strict=True)))
    assert sum(known.values()) == 1797
    # No image occurs twice, so that counts of equal images show disjointness.
    assert max(known.values()) == 1
    assert not parts[0] & parts[1]
    assert parts[0] + parts[1] == known


def test_a_fifth_of_every_class_is_for_testing_to_within_one_image() -> None:
    test, train = Counter(Digits("test").labels), Counter(Digits("train").labels)
    assert set(test) == set(train) == set(range(10))
    for digit in range(10):
        assert abs(test[digit] - (test[digit] + train[digit]) / 5) < 1


def test_class_names_are_the_digits() -> None:
    assert Digits("test").class_names == tuple("0123456789")


def test_the_test_slice_has_the_published_digest() -> None:
    images = EvalSubset.of(open_dataset("digits", "test"))
    assert len(images) == 364
    assert images.digest == TEST_DIGEST


def test_an_image_that_is_changed_is_read_unchanged_the_next_time() -> None:
    digits = Digits("test")
    before = digits.read(7).clone()
    digits.read(7).zero_()
    assert torch.equal(digits.read(7), before)
