"""Our PGD and those of torchattacks and MadryLab's robustness, on the same images: the same adversarials."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustbench_bcos.attacks.searches.pgd import PGD
from robustbench_bcos.core.prediction import predicted_classes
from tests.optional import importorskip_quietly

EPSILONS = {"l2": 0.5, "linf": 8 / 255}
STEP_SIZES = {"l2": 0.1, "linf": 2 / 255}

every_norm = pytest.mark.parametrize("norm", EPSILONS)
every_length = pytest.mark.parametrize("steps", [1, 2, 10, 40])
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


class ConvNet(nn.Sequential):
    """Two convolutions and a read-out, drawn from a generator of their own."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.Tanh(),
            nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12 * 4 * 4, 10),
        )  # fmt: skip
        generator = torch.Generator().manual_seed(11)
        for parameter in self.parameters():
            fan_in = parameter[0].numel()
            nn.init.normal_(parameter, std=1.5 * fan_in**-0.5, generator=generator)
        self.requires_grad_(False).eval()


@pytest.fixture
def net(dtype: torch.dtype) -> ConvNet:
    return ConvNet().to(dtype)


@pytest.fixture
def images(dtype: torch.dtype) -> Tensor:
    return torch.randint(256, (64, 3, 16, 16), generator=torch.Generator().manual_seed(12)).to(dtype) / 255


@pytest.fixture
def labels(net: ConvNet, images: Tensor) -> Tensor:
    return predicted_classes(net(images))


def ours(net: ConvNet, images: Tensor, labels: Tensor, *, norm: str, steps: int, **settings: Any) -> Tensor:
    attack = PGD(steps=steps, step_size=STEP_SIZES[norm], **settings)
    return attack(net, images, labels, norm, EPSILONS[norm]).adversarials


def assert_agree(norm: str, adversarials: Tensor, expected: Tensor) -> None:
    if norm == "linf":
        assert torch.equal(adversarials, expected)
    else:
        # The peers add 1e-10 to a gradient's norm and 1e-7 to a delta's.
        torch.testing.assert_close(adversarials, expected, rtol=0, atol=1e-6)


@every_dtype
@every_norm
@every_length
def test_torchattacks_finds_the_same_adversarials(
    norm: str, steps: int, net: ConvNet, images: Tensor, labels: Tensor
) -> None:
    torchattacks = pytest.importorskip("torchattacks")
    peer = {"l2": torchattacks.PGDL2, "linf": torchattacks.PGD}[norm](
        net, eps=EPSILONS[norm], alpha=STEP_SIZES[norm], steps=steps, random_start=False
    )
    adversarials = ours(net, images, labels, norm=norm, steps=steps, select="last")
    assert_agree(norm, adversarials, peer(images, labels))


@every_dtype
@every_norm
@every_length
def test_robustness_finds_the_same_adversarials(
    norm: str, steps: int, net: ConvNet, images: Tensor, labels: Tensor
) -> None:
    attack_steps = importorskip_quietly("robustness.attack_steps")
    peer = {"l2": attack_steps.L2Step, "linf": attack_steps.LinfStep}[norm](images, EPSILONS[norm], STEP_SIZES[norm])
    iterates = images
    for _ in range(steps):
        leaf = iterates.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(net(leaf), labels), leaf)
        iterates = peer.project(peer.step(iterates, gradient))
    assert_agree(norm, ours(net, images, labels, norm=norm, steps=steps, select="last"), iterates)


@pytest.mark.parametrize("dtype", [torch.float64], ids=["float64"])  # ours compares losses in float64
@every_norm
@every_length
def test_best_loss_is_what_robustness_calls_use_best(
    norm: str, steps: int, net: ConvNet, images: Tensor, labels: Tensor, attacker: ModuleType
) -> None:
    # With a step as large as the ball, the best iterate is often not the last.
    epsilon = EPSILONS[norm]
    peer = attacker.Attacker(net, SimpleNamespace(mean=torch.zeros(3), std=torch.ones(3)))
    expected = peer(
        images, labels, constraint={"l2": "2", "linf": "inf"}[norm], eps=epsilon, step_size=epsilon,
        iterations=steps, use_best=True, should_normalize=False,
    )  # fmt: skip
    best, last = (
        PGD(steps=steps, step_size=epsilon, select=select)(net, images, labels, norm, epsilon).adversarials
        for select in ("best_loss", "last")
    )
    assert_agree(norm, best, expected.detach())
    assert steps < 10 or not torch.equal(best, last)


@pytest.fixture
def attacker(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The peer's ``Attacker`` on a CPU, without the logging and pickling libraries that it imports and never calls."""
    for name, attribute in (("cox", "store"), ("cox.store", "Store"), ("dill", "loads")):
        stand_in = ModuleType(name)
        setattr(stand_in, attribute, None)
        monkeypatch.setitem(sys.modules, name, stand_in)
    monkeypatch.setattr(Tensor, "cuda", lambda tensor: tensor)
    module: ModuleType = importorskip_quietly("robustness.attacker")
    return module
