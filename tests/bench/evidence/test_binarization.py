"""The binarization test: a planted example that an attack on an honest network finds, and no attack on a hidden one."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import robustbench_bcos as rb
from robustbench_bcos.attacks.attack import AbstractAttack, AttackResult, Problem, Trace
from robustbench_bcos.attacks.searches.apgd import APGD
from robustbench_bcos.attacks.searches.apgd_targeted import TargetedAPGD
from robustbench_bcos.attacks.searches.noise import Noise
from robustbench_bcos.attacks.searches.pgd import PGD
from robustbench_bcos.attacks.searches.square import Square
from robustbench_bcos.attacks.threat import Threat
from robustbench_bcos.bench.evidence.binarization import (
    EASY,
    GAP,
    INNER_POINTS,
    RANDOM_POINTS,
    Answer,
    Features,
    _fit,
    _inner_points,
    binarize,
)
from robustbench_bcos.core.rng import PerImageRng, generator
from robustbench_bcos.model_zoo.architectures import build_architecture, initialise
from robustbench_bcos.model_zoo.classifier import freeze
from robustbench_bcos.model_zoo.draws import AveragedDraws
from tests.bench.evidence.one_check import outcome, results
from tests.bench.own_request import own_request

SHAPE, HIDDEN, CLASSES = (3, 5, 4), 90, 7
RADII = {"l2": 0.5, "linf": 0.05}
STRONG = PGD(steps=20, loss="margin")

every_norm = pytest.mark.parametrize("norm", RADII)


def mlp(*around: nn.Module) -> nn.Sequential:
    """A small network with random weights, behind something done to the image."""
    layers = [nn.Flatten(), nn.Linear(60, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, CLASSES)]
    network = nn.Sequential(*around, *layers)
    random = generator(3)
    for layer in layers:
        if isinstance(layer, nn.Linear):
            scale = 3 / layer.in_features**0.5
            layer.weight.data = scale * torch.randn(layer.weight.shape, generator=random)
            layer.bias.data = torch.randn(layer.bias.shape, generator=random) / 2
    return freeze(network)


class Applied(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: Tensor) -> Tensor:
        return self.function(images)


def pictures(count: int, *shape: int) -> Tensor:
    return 0.25 + 0.5 * torch.rand(count, *(shape or SHAPE), generator=generator(8))


def answers(network: nn.Module, norm: str, attack: AbstractAttack = STRONG, count: int = 6) -> list[Answer]:
    images = pictures(count)
    features = Features(network, images[:1])
    return [
        binarize(features, attack, images[place, None], Threat.of(norm, RADII[norm]), PerImageRng.of(0, [place]))
        for place in range(count)
    ]


# Who finds what


@every_norm
def test_an_attack_on_an_honest_network_finds_what_was_planted(norm: str) -> None:
    found = answers(mlp(), norm)
    assert all(answer.usable for answer in found)
    assert all(answer.found for answer in found)


@every_norm
@pytest.mark.parametrize(
    "hide",
    [
        lambda images: (6 * images).round() / 6,
        lambda images: images.detach().clone(),
        lambda images: images.detach().clone() + 0 * images,
    ],
    ids=["rounded", "detached", "a gradient of zero"],
)
def test_an_attack_along_hidden_gradients_does_not(hide: Callable[[Tensor], Tensor], norm: str) -> None:
    found = answers(mlp(Applied(hide)), norm)
    # Rounding may leave no point to tell from another.
    assert not any(answer.found for answer in found if answer.usable)


@every_norm
def test_a_network_that_hides_gradients_can_still_be_asked(norm: str) -> None:
    found = answers(mlp(Applied(lambda images: images.detach().clone())), norm)
    assert [(answer.usable, answer.found) for answer in found] == [(True, False)] * 6


@every_norm
def test_an_attack_that_searches_nothing_finds_nothing(norm: str) -> None:
    found = answers(mlp(), norm, PGD(steps=1, step_size=1e-6, loss="margin"))
    assert [(answer.usable, answer.found) for answer in found] == [(True, False)] * 6


@pytest.mark.parametrize(
    "attack",
    [
        APGD(steps=10, loss="ce"),
        APGD(steps=10, loss="dlr"),
        TargetedAPGD(steps=10),
        PGD(steps=10, loss="bce", start="random", restarts=2),
        Square(queries=200),
        Noise(restarts=3),
    ],
    ids=["ce", "dlr", "targets", "bce", "square", "noise"],
)
def test_every_attack_can_be_asked(attack: AbstractAttack) -> None:
    found = answers(mlp(), "linf", attack, count=3)
    assert all(answer.usable for answer in found)
    if not isinstance(attack, Noise):
        assert all(answer.found for answer in found)


@every_norm
def test_where_random_points_find_it_too_nothing_is_concluded(norm: str) -> None:
    # Features that say whether a point is well inside: what tells one boundary point tells every other as well.
    def shell(images: Tensor) -> Tensor:
        delta = (images - 0.5).flatten(1)
        sizes = delta.norm(dim=1) if norm == "l2" else delta.abs().amax(dim=1)
        return (sizes > 0.97 * RADII[norm]).float()[:, None].expand(-1, 20)

    network = freeze(nn.Sequential(Applied(shell), nn.Linear(20, CLASSES)))
    image = torch.full((1, *SHAPE), 0.5)
    answer = binarize(Features(network, image), STRONG, image, Threat.of(norm, RADII[norm]), PerImageRng.of(0, [4]))
    assert not answer.usable


def test_a_read_out_that_cannot_be_fitted_is_not_used_and_nothing_is_attacked() -> None:
    network, attack = mlp(Applied(torch.zeros_like)), Recorded()
    image = pictures(1)
    answer = binarize(Features(network, image), attack, image, Threat.of("l2", 0.5), PerImageRng.of(0, [0]))
    assert answer[:2] == (False, False)
    assert attack.asked == []


# The points and the read-out


@dataclass(frozen=True, kw_only=True)
class Recorded(AbstractAttack):
    """An attack that remembers what it was asked, and proposes the image itself."""

    asked: list[Problem] = field(default_factory=list)

    @property
    def passes(self) -> int:
        return 3

    def _search(self, problem: Problem) -> AttackResult:
        self.asked.append(problem)
        trace = Trace.blank(problem.images)
        trace.forward_passes.add_(3)
        return AttackResult(problem.images.clone(), trace)


@every_norm
def test_points_inside_are_one_class_and_a_point_of_the_boundary_is_the_other(norm: str) -> None:
    shown: list[Tensor] = []

    def watched(images: Tensor) -> Tensor:
        shown.append(images.detach().clone())
        return images

    network, threat = mlp(Applied(watched)), Threat.of(norm, RADII[norm])
    image, attack = pictures(1), Recorded()
    features = Features(network, image)
    shown.clear()
    answer = binarize(features, attack, image, threat, PerImageRng.of(2, [9]))
    _, points, random = shown[:3]
    assert len(points) == 1 + _inner_points(HIDDEN) + 1 < HIDDEN
    assert len(random) == RANDOM_POINTS
    sizes = threat.size(points - image)
    assert torch.equal(points[:1], image)
    assert sizes[1:-1].max() <= (1 - GAP) * RADII[norm] * (1 + 1e-5)
    torch.testing.assert_close(sizes[-1], torch.tensor(RADII[norm]), rtol=1e-5, atol=0)
    torch.testing.assert_close(threat.size(random - image), torch.full((200,), RADII[norm]), rtol=1e-5, atol=0)
    (problem,) = attack.asked
    read_out = problem.classifier
    assert torch.equal(problem.images, image)
    assert (problem.goals.tolist(), problem.threat) == ([0], threat)
    said = read_out(points)
    assert said[:-1].argmax(dim=1).tolist() == [0] * (len(points) - 1)
    assert said[-1].argmax() == 1
    # -1 and 1 in float64; in float32 large weights nearly cancel.
    expected = torch.tensor([[1.0, -1.0]] * (len(points) - 1) + [[-1.0, 1.0]])
    torch.testing.assert_close(said, expected, rtol=0, atol=0.1)
    share = float((read_out(random)[:, 1] > 0).float().mean())
    assert answer.usable == (share <= EASY)
    assert not answer.found
    assert answer.passes == len(points) + RANDOM_POINTS + 1 + 3


def test_the_same_image_and_seed_give_the_same_points_and_others_give_others() -> None:
    network, image = mlp(), pictures(1)
    probes, said = pictures(5), []
    for seed, index in ((2, 9), (2, 9), (3, 9), (2, 8)):
        attack = Recorded()
        binarize(Features(network, image), attack, image, Threat.of("l2", 0.5), PerImageRng.of(seed, [index]))
        said.append(attack.asked[0].classifier(probes))
    assert torch.equal(said[0], said[1])
    assert not torch.equal(said[0], said[2])
    assert not torch.equal(said[0], said[3])


@pytest.mark.parametrize(("features", "points"), [(2, 1), (3, 1), (64, 61), (1001, 998), (1002, 999), (5000, 999)])
def test_points_are_fewer_than_features_and_no_more_than_published(features: int, points: int) -> None:
    assert _inner_points(features) == points
    assert points <= INNER_POINTS == 999


@given(seed=st.integers(0, 10_000), points=st.integers(2, 20), more=st.integers(1, 30), scale=st.floats(-4, 4))
@settings(max_examples=25, deadline=None)
def test_the_read_out_is_the_shortest_that_separates(seed: int, points: int, more: int, scale: float) -> None:
    random = np.random.default_rng(seed)
    drawn = 10**scale * random.normal(size=(points, points + more)) + random.normal(size=points + more)
    fitted = _fit(torch.from_numpy(drawn))
    assert fitted is not None
    weights, bias = (part.numpy() for part in fitted)
    aims = np.array([-1.0] * (points - 1) + [1.0])
    np.testing.assert_allclose(drawn @ weights + bias, aims, atol=1e-6)
    # The shortest on features of mean 0 and deviation 1, with a last one that is always 1: by the normal equations.
    rows = np.column_stack([(drawn - drawn.mean(axis=0)) / drawn.std(axis=0, ddof=1), np.ones(points)])
    shortest = rows.T @ np.linalg.solve(rows @ rows.T, aims)
    np.testing.assert_allclose(weights * drawn.std(axis=0, ddof=1), shortest[:-1], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("points", [torch.zeros(4, 9), torch.eye(4, 9)[[0, 1, 2, 2]]], ids=["one place", "twice there"])
def test_points_that_lie_on_one_another_have_no_read_out(points: Tensor) -> None:
    assert _fit(points.double()) is None


def test_features_that_never_change_do_no_harm() -> None:
    random = torch.randn(5, 9, generator=generator(1), dtype=torch.float64)
    random[:, 3] = 7.0
    fitted = _fit(random)
    assert fitted is not None
    assert all(part.isfinite().all() for part in fitted)
    assert (random @ fitted[0] + fitted[1]).sign().tolist() == [-1.0] * 4 + [1.0]


# What the features are


class Conv(nn.Module):
    """A network that ends in a 1x1 convolution and a pool, and adds an offset to its logits."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 24, 3, padding=1), nn.ReLU())
        self.head = nn.Conv2d(24, CLASSES, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images)).mean(dim=(2, 3)) / 2 + 1


class Inside(nn.Module):
    """A network inside another module, as encodings hold theirs."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(1 - images)


def test_features_are_what_goes_into_a_linear_layer() -> None:
    network, images = mlp(), pictures(3)
    expected = network[:-1](images)
    features = Features(network, images[:1])
    torch.testing.assert_close(features(images), expected, rtol=1e-6, atol=1e-6)
    assert features(images).shape == (3, HIDDEN)


def test_features_are_what_goes_into_a_convolution_pooled() -> None:
    network, images = freeze(Conv()), pictures(3)
    expected = network.body(images).mean(dim=(2, 3))
    torch.testing.assert_close(Features(network, images[:1])(images), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("network", [mlp(), freeze(Conv())], ids=["linear", "convolution"])
def test_features_of_a_network_inside_another_module_are_its_own(network: nn.Module, depth: int) -> None:
    images, around = pictures(3), network
    for _ in range(depth):
        around = Inside(around)
    shown = images if depth == 2 else 1 - images
    expected = Features(network, images[:1])(shown)
    torch.testing.assert_close(Features(around, images[:1])(images), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["digits-natural", "digits-bcos-b2", "digits-bcos-adv-l2"])
def test_features_of_the_zoo_are_what_goes_into_the_last_layer(name: str) -> None:
    network: Any = rb.load_model(name)
    images = pictures(3, 3, 8, 8)
    seen: list[Tensor] = []
    hook = network.network.fc.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(images)
    hook.remove()
    found = Features(network, images[:1])(images)
    assert found.shape == (3, 64)
    torch.testing.assert_close(found, seen[0].mean(dim=(2, 3)) if seen[0].dim() == 4 else seen[0])


@pytest.mark.parametrize(
    ("architecture", "channels", "arguments"),
    [
        ("bcos_resnet8", 6, {}),
        ("bcos_resnet8", 6, {"max_out": 2}),
        ("resnet8", 3, {}),
    ],
)
def test_features_of_every_kind_of_head_are_as_many_as_it_takes_in(
    architecture: str, channels: int, arguments: dict[str, Any]
) -> None:
    network = freeze(build_architecture(architecture, in_channels=channels, classes=5, arguments=arguments))
    initialise(network, generator(2))
    images = pictures(2, channels, 8, 8)
    found = Features(network, images)(images)
    assert found.shape == (2, 64)


def test_features_have_the_gradient_of_the_network() -> None:
    network, images = mlp(), pictures(2).requires_grad_()
    outer = torch.randn(2, HIDDEN, generator=generator(4))
    (expected,) = torch.autograd.grad(network[:-1](images), images, outer)
    (found,) = torch.autograd.grad(Features(network, images[:1])(images), images, outer)
    torch.testing.assert_close(found, expected)


def test_looking_at_features_leaves_nothing_behind() -> None:
    network, images = mlp(), pictures(2)
    Features(network, images)(images)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


class Functional(nn.Module):
    """A network whose layers are not modules."""

    def forward(self, images: Tensor) -> Tensor:
        return F.linear(images.flatten(1), torch.ones(CLASSES, 60))


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (Functional(), "its last layer is not a module of its own"),
        (Inside(Functional()), "its last layer takes in only 3 features"),
        (nn.Sequential(Functional(), nn.ReLU()), "its last layer takes in only 3 features"),
        (AveragedDraws(mlp(), draws=2, seed=0), "its last layer is not shown all images of a batch at once"),
    ],
    ids=["functional", "inside another", "an activation behind it", "averages draws"],
)
def test_a_network_whose_last_layer_cannot_be_told_is_refused(network: nn.Module, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Features(network, pictures(1))


# As a check


def test_the_test_around_an_image_is_the_same_under_a_target() -> None:
    """A read-out has two classes of its own, whatever class the cell's attack aims at."""
    images = pictures(4)
    network = mlp()
    labels = network(images).argmax(dim=1)
    asked: dict[str, Any] = {"steps": (20,), "loss": ("margin",), "evidence": "full", "eps": ("0.5",)}
    targets: list[dict[str, Any]] = [{}, {"criterion": "targeted", "target": "least_likely"}]
    said = [
        results("binarization", own_request({"net": network}, images, labels, CLASSES, **asked | to)) for to in targets
    ]
    plain, aimed = ([(row.image, row.against, row.passes) for row in rows] for rows in said)
    assert plain == aimed != []


def test_a_hidden_gradient_undermines_the_number_and_an_honest_one_does_not() -> None:
    images = pictures(12)
    networks = {"honest": mlp(), "hidden": mlp(Applied(lambda shown: shown.detach().clone()))}
    labels = networks["honest"](images).argmax(dim=1)
    asked: dict[str, Any] = {"steps": (20,), "loss": ("margin",), "evidence": "full", "eps": ("0.5",)}
    request = own_request(networks, images, labels, CLASSES, **asked)
    honest, _ = outcome("binarization", request, 0)
    hidden, trust = outcome("binarization", request, 1)
    assert (honest.status, honest.examined, honest.against) == ("held", 12, 0)
    assert (hidden.status, hidden.examined, hidden.against) == ("undermined", 12, 12)
    assert "binarization" in trust.reasons.split("; ")
    # A planted example is none of the threat's.
    assert trust.worst_correct == 12


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (Functional(), "its last layer is not a module of its own"),
        (mlp(Applied(lambda images: torch.zeros_like(images) + 0 * images)), "no read-out of its features is hard"),
    ],
    ids=["functional", "constant"],
)
def test_a_network_that_cannot_be_asked_is_not_done_and_that_is_said(network: nn.Module, said: str) -> None:
    images = pictures(3)
    labels = freeze(network)(images).argmax(dim=1)
    request = own_request({"net": network}, images, labels, CLASSES, steps=(2,), loss=("margin",), evidence="full")
    answer, trust = outcome("binarization", request)
    assert answer.status == "not done"
    assert answer.sentence.startswith(f"not done: {said}")
    assert "binarization not done" in trust.reasons.split("; ")
