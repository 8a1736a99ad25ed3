"""A tiny network and a few images: 9 images, 3 channels, 5 x 4 pixels, 11 hidden units, 7 classes, all in float64."""

from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustbench_bcos.attacks import ATTACKS, NORMS
from robustbench_bcos.attacks.attack import AbstractAttack, AttackResult
from robustbench_bcos.attacks.criteria.misclassified import Misclassified
from robustbench_bcos.attacks.searches.autoattack import AutoAttack, Ensemble
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.prediction import predicted_classes
from robustbench_bcos.core.rng import PerImageRng, generator
from tests.reference.pgd import TwoLayers

Network = Callable[[Tensor], Tensor]


class TanhNet(nn.Module):
    """The network of the NumPy reference; its parameters are deliberately not frozen."""

    def __init__(self, twin: TwoLayers) -> None:
        super().__init__()
        self.features = nn.Parameter(torch.from_numpy(twin.features))
        self.offset = nn.Parameter(torch.from_numpy(twin.offset))
        self.readout = nn.Parameter(torch.from_numpy(twin.readout))

    def forward(self, images: Tensor) -> Tensor:
        return torch.tanh((images.flatten(1) - 0.5) @ self.features.T + self.offset) @ self.readout.T


class Witness:
    """A classifier that remembers what it was shown."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.seen: list[Tensor] = []

    def __call__(self, images: Tensor) -> Tensor:
        self.seen.append(images.detach().clone())
        return self.network(images)


@pytest.fixture
def twin() -> TwoLayers:
    return draw_twin(np.random.default_rng(1), values=3 * 5 * 4)


@pytest.fixture
def net(twin: TwoLayers) -> TanhNet:
    return TanhNet(twin)


@pytest.fixture
def images() -> Tensor:
    """On the k/255 grid, black and white pixels among them, so that clipping to the pixel box has work to do."""
    levels = np.random.default_rng(2).integers(-60, 316, size=(9, 3, 5, 4)).clip(0, 255)
    return torch.from_numpy(levels / 255)


@pytest.fixture
def labels(net: TanhNet, images: Tensor) -> Tensor:
    """What the network says of each image, but for the last one, which is misclassified from the start."""
    labels = predicted_classes(net(images).detach())
    labels[-1] = (labels[-1] + 1) % 7
    return labels


def draw_twin(random: np.random.Generator, *, values: int) -> TwoLayers:
    """For images of so many values."""
    return TwoLayers(
        features=random.normal(size=(11, values)) / np.sqrt(values) * 4,
        offset=random.normal(size=11) / 2,
        readout=random.normal(size=(7, 11)),
    )


def radius_of(norm: str) -> float:
    """An epsilon that a linear function with a random gradient gains as much from as from l2 0.2.

    Some of the images are broken within it and some stay robust: in l2 0.2, in linf 0.03, in l1 0.6.
    """
    gradient = torch.randn(1, 3, 5, 4, generator=generator(0), dtype=torch.float64)
    most = (gradient * NORMS[norm].steepest_ascent(gradient)).sum()
    return float(0.2 * gradient.norm() / most)


def broken(network: Network, found: AttackResult | Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        return predicted_classes(network(found if isinstance(found, Tensor) else found.adversarials)) != labels


def one_at_a_time(network: Network) -> Network:
    """The same network, whose sums do not depend on the batch."""
    return lambda shown: torch.cat([network(image[None]) for image in shown])


class LaterRestarts(PerImageRng):
    """Randomness whose first restart is a later one of another; the key says which."""

    def __call__(self, restart: int) -> list[torch.Generator]:
        (first,) = self.key
        assert isinstance(first, int)
        return [generator(self.seed, index, first + restart) for index in self.indices]


SHORT = {"steps": 5, "queries": 20, "targets": 2, "restarts": 2}


def shortened(name: str, **options: Any) -> AbstractAttack:
    """The attack of this name, with few steps; for AutoAttack an ensemble of such."""
    if ATTACKS[name] is AutoAttack:
        return Ensemble(members=tuple(shortened(member) for member in ("noise", "apgd_targeted", "square")))
    known = {field.name for field in fields(ATTACKS[name])}
    return ATTACKS[name](**{option: value for option, value in (SHORT | options).items() if option in known})


def _variants() -> Iterator[tuple[str, AbstractAttack]]:
    for name in ATTACKS:
        yield name, shortened(name)
        for option, value in (("select", "last"), ("select", "best_loss"), ("start", "random"), ("brief", True)):
            if option in shortened(name).options:
                yield f"{name}, {option}" if value is True else f"{name}, {value}", shortened(name, **{option: value})


VARIANTS = dict(_variants())
"""Every registered attack, in each way of selecting an iterate and of beginning that it has."""


def knows(attack: AbstractAttack, norm: str) -> bool:
    """Whether the attack has moves for the norm, and what it needs is installed."""
    try:
        attack.check(NORMS[norm], Misclassified())
    except RequestError:
        return False
    return True


every_attack = pytest.mark.parametrize(
    ("attack", "norm"),
    [
        pytest.param(attack, norm, id=f"{name}-{norm}")
        for name, attack in VARIANTS.items()
        for norm in NORMS
        # How an attack selects an iterate has nothing to do with the norm: one will do.
        if knows(attack, norm) and (name in ATTACKS or norm == "l2")
    ],
)
