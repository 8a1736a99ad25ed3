"""A random model as an average: the mean of what it answers, for every image by itself; no other draws are moved."""

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustbench_bcos.core.rng import global_generators
from robustbench_bcos.model_zoo.classifier import ImageClassifier
from robustbench_bcos.model_zoo.draws import AveragedDraws, average_draws, draws_of, other_draws
from robustbench_bcos.model_zoo.encodings import AddInverse
from robustbench_bcos.model_zoo.models import own_model

IMAGES = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
MIXED = torch.randn(96, 4, generator=torch.Generator().manual_seed(1))
CPU = torch.device("cpu")


def by_torch(images: Tensor) -> Tensor:
    return images + 0.3 * torch.randn_like(images)


def by_numpy(images: Tensor) -> Tensor:
    return images + 0.3 * torch.from_numpy(np.random.rand(*images.shape).astype(np.float32))


def by_python(images: Tensor) -> Tensor:
    return torch.roll(images, random.randint(-2, 2), dims=3)


def by_dropout(images: Tensor) -> Tensor:
    return nn.functional.dropout(images, 0.3)


SOURCES = [by_torch, by_numpy, by_python, by_dropout]


class Random(nn.Module):
    def __init__(self, disturb: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.disturb = disturb

    def forward(self, images: Tensor) -> Tensor:
        features = self.disturb(images).flatten(1)
        return torch.tanh(features @ MIXED[: features.shape[1]])


@pytest.mark.parametrize("disturb", SOURCES)
def test_answers_and_gradients_are_means_over_seeded_draws(disturb: Callable[[Tensor], Tensor]) -> None:
    network = Random(disturb)
    logits, gradients = [], []
    for image in IMAGES.split(1):
        answers = []
        leaf = image.clone().requires_grad_()
        for draw in range(6):
            with global_generators(3, "draws", 0, draw, device=CPU):
                answers.append(network(leaf)[0])
        logits.append(sum(answers) / 6)
        slopes = [torch.autograd.grad(answer[2], leaf, retain_graph=True)[0] for answer in answers]
        gradients.append(sum(slopes) / 6)
    leaf = IMAGES.clone().requires_grad_()
    found = AveragedDraws(network, draws=6, seed=3)(leaf)
    torch.testing.assert_close(found, torch.stack(logits))
    torch.testing.assert_close(torch.autograd.grad(found[:, 2].sum(), leaf)[0], torch.cat(gradients))
    # The draws differ, or this would be a test of nothing.
    assert not torch.equal(found, AveragedDraws(network, draws=1, seed=3)(IMAGES))


@pytest.mark.parametrize("disturb", SOURCES)
def test_an_answer_depends_on_the_image_and_the_seed_alone(disturb: Callable[[Tensor], Tensor]) -> None:
    averaged = AveragedDraws(Random(disturb), draws=3, seed=0)
    found = averaged(IMAGES)
    torch.manual_seed(17)
    random.seed(17)
    np.random.seed(17)
    order = torch.tensor([3, 1, 4])
    assert torch.equal(averaged(IMAGES[order]), found[order])
    assert torch.equal(averaged(IMAGES[2:3]), found[2:3])
    assert not torch.equal(AveragedDraws(Random(disturb), draws=3, seed=1)(IMAGES), found)


def test_draws_of_others_are_left_as_they_were() -> None:
    def drawn() -> tuple[float, float, float]:
        return float(torch.rand(())), float(np.random.rand()), random.random()

    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    before = drawn()
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    with global_generators(1, device=CPU):
        inside = drawn()
    assert drawn() == before
    assert not set(inside) & set(before)


@pytest.mark.parametrize("encoded", [False, True])
def test_a_model_is_averaged_behind_its_encoding(encoded: bool) -> None:
    network = Random(by_torch)
    model = own_model("random", ImageClassifier(AddInverse(), network) if encoded else network)
    assert draws_of(model.classifier) == 1
    averaged = average_draws(model, draws=4, seed=0)
    assert isinstance(averaged.classifier, ImageClassifier) is encoded
    assert draws_of(averaged.classifier) == 4
    assert not averaged.classifier.training
    assert (averaged.name, averaged.weights_sha256) == (model.name, model.weights_sha256)


def test_other_draws_are_others_until_they_are_left() -> None:
    averaged = AveragedDraws(Random(by_torch), draws=3, seed=0)
    classifier = nn.Sequential(averaged)
    found = classifier(IMAGES)
    with other_draws(classifier):
        assert not torch.equal(classifier(IMAGES), found)
    assert torch.equal(classifier(IMAGES), found)
