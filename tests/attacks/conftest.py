"""A tiny network and a few images: 9 images, 3 channels, 5 x 4 pixels, 11 hidden units, 7 classes, all in float64."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustbench_bcos.core.prediction import predicted_classes
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
