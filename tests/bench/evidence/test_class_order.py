"""The order of the classes: found where it is another one, and nowhere else, however weak a model is."""

import random
from collections.abc import Callable, Sequence

import pytest
import torch

from robustbench_bcos.bench.evidence.class_order import find_order
from robustbench_bcos.core.prediction import NO_CLASS
from tests.bench.evidence.planted import IMAGES, LABELS

AS_TEXT = sorted(range(12), key=str)


def predictions(labels: Sequence[int], classes: int, right: float, meant: Callable[[int], int]) -> list[int]:
    """A model that is right about a share of the images, in its own order of the classes, and guesses otherwise."""
    drawn = random.Random(0)
    return [meant(label) if drawn.random() < right else drawn.randrange(classes) for label in labels]


@pytest.mark.parametrize(("each", "right"), [(3, 0.97), (30, 0.97), (30, 0.6)])
@pytest.mark.parametrize(
    "meant",
    [
        lambda label: AS_TEXT[label],
        lambda label: AS_TEXT.index(label),
        lambda label: (label + 1) % 12,
        lambda label: 11 - label,
        lambda label: label - 1,
    ],
    ids=["numbers sorted as texts", "texts sorted as numbers", "turned", "reversed", "counted from one"],
)
def test_another_order_is_found_with_few_images_of_each_class(
    meant: Callable[[int], int], right: float, each: int
) -> None:
    labels = [label for _ in range(each) for label in range(12)]
    said = predictions(labels, 12, right, meant)
    found = find_order(labels, said, 12)
    assert found is not None
    assert found.right.tolist() == [label == one for label, one in zip(labels, said, strict=True)]
    assert int(found.right_if_read.sum()) > 0.4 * len(labels)
    assert all(found.order.reading[label] == meant(label) for label in (3, 8)) or each == 3


def test_two_classes_that_are_taken_for_each_other_are_found_among_ten() -> None:
    labels = list(range(10)) * 20
    found = find_order(labels, predictions(labels, 10, 0.95, lambda label: {3: 5, 5: 3}.get(label, label)), 10)
    assert found is not None
    assert found.words(["zero", "one", "two", "cat", "4", "dog"]).endswith(
        "if each label is read as its commonest prediction (3 ('cat') as 5, 5 ('dog') as 3)"
    )


def test_of_many_classes_with_one_image_each_an_order_is_found_if_it_has_a_name() -> None:
    labels = list(range(200))
    found = find_order(labels, predictions(labels, 200, 0.7, lambda label: label - 1), 200)
    assert found is not None
    assert "if each label is read as one less (0 as -1, 1 as 0, 2 as 1 and 197 more)" in found.words()
    drawn = random.Random(1).sample(labels, 200)
    assert find_order(labels, predictions(labels, 200, 1.0, drawn.__getitem__), 200) is None


@pytest.mark.parametrize("right", [1.0, 0.5, 0.2, 0.0])
@pytest.mark.parametrize("each", [1, 3, 30])
def test_an_honest_model_is_not_accused_however_weak(right: float, each: int) -> None:
    labels = [label for _ in range(each) for label in range(12)]
    assert find_order(labels, predictions(labels, 12, right, lambda label: label), 12) is None


@pytest.mark.parametrize("answer", [3, NO_CLASS])
def test_a_model_that_always_says_the_same_is_not_accused(answer: int) -> None:
    assert find_order(list(range(10)) * 30, [answer] * 300, 10) is None
    assert find_order([7] * 300, [answer] * 300, 10) is None


def test_confusing_two_classes_is_no_order() -> None:
    # Every other cat is a dog, and every other dog a cat.
    labels = [3, 5] * 200
    said = [3, 5, 5, 3] * 100
    assert find_order(labels, said, 10) is None
    assert find_order(labels, [5] * 210 + said[210:], 10) is None


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_random_networks_are_seldom_accused_though_they_tell_classes_apart(classes: int) -> None:
    kept = LABELS.lt(classes).nonzero().squeeze(1)
    images, labels = IMAGES[kept].flatten(1), LABELS[kept].tolist()
    accused = 0
    for seed in range(60):
        weights = torch.randn(192, classes, generator=torch.Generator().manual_seed(seed))
        accused += find_order(labels, (images @ weights).argmax(dim=1).tolist(), classes) is not None
    assert accused <= 3
