"""DenseNets: B-cos ones against the official package, conventional ones against torchvision."""

from typing import Any

import pytest
import torch
import torchvision
from bcos.models import densenet as peers
from torch import nn

from robustbench_bcos.model_zoo.architectures.densenet import CIFAR, IMAGENET, DenseNet, DenseNetConfig
from robustbench_bcos.model_zoo.architectures.layers import bcos_layers, conventional_layers
from tests.model_zoo.peers import (
    CLASSES,
    NO_LOGIT_BIAS,
    assert_same_network,
    encoded,
    official,
    ours,
    parameters,
    shapes,
)

DEPTHS = (3, 4, 2)
"""Layers of each block: deeper networks have more of the same."""


def bcos(name: str, **arguments: Any) -> nn.Module:
    return ours(f"bcos_{name}", logit_bias=NO_LOGIT_BIAS, **arguments)


def builder(name: str) -> Any:
    return getattr(peers, name if name in IMAGENET else f"cifar10_{name.split('_')[0]}")


@pytest.mark.parametrize("max_out", [1, 2])
@pytest.mark.parametrize("name", IMAGENET | CIFAR)
def test_tensors_have_the_official_names_and_shapes(name: str, max_out: int) -> None:
    with torch.device("meta"):
        network, peer = bcos(name, max_out=max_out), official(builder(name), max_out=max_out)
    assert shapes(network) == shapes(peer)


@pytest.mark.parametrize(
    ("name", "millions", "entries"),
    [
        ("densenet121", 7.95, 605),
        ("densenet161", 28.58, 805),
        ("densenet169", 14.08, 845),
        ("densenet201", 19.91, 1005),
    ],
)
def test_published_numbers_of_parameters_and_tensors(name: str, millions: float, entries: int) -> None:
    with torch.device("meta"):
        network = bcos(name, classes=1000)
    assert (round(parameters(network) / 1e6, 2), len(network.state_dict())) == (millions, entries)


@pytest.mark.parametrize(("small_images", "max_out"), [(False, 1), (False, 2), (True, 1)])
def test_short_network_equals_the_official_one(small_images: bool, max_out: int) -> None:
    parts = bcos_layers(classes=CLASSES, max_out=max_out, logit_bias=NO_LOGIT_BIAS)
    plan = DenseNetConfig(depths=DEPTHS, growth=8, width=12, small_images=small_images)
    network = DenseNet(parts, config=plan, in_channels=6, classes=CLASSES)
    peer = official(
        peers.BcosDenseNet,
        growth_rate=8,
        block_config=DEPTHS,
        num_init_features=12,
        small_inputs=small_images,
        max_out=max_out,
    )
    assert_same_network(network, peer, encoded(2, 3, 24, 36))


@pytest.mark.parametrize(("name", "size"), [("densenet121", (32, 40)), ("densenet52_12", (8, 12))])
def test_network_equals_the_official_one(name: str, size: tuple[int, int]) -> None:
    assert_same_network(bcos(name), official(builder(name)), encoded(2, 3, *size))


@pytest.mark.parametrize("name", IMAGENET)
def test_conventional_tensors_have_torchvisions_names_and_shapes_in_its_order(name: str) -> None:
    with torch.device("meta"):
        network, peer = ours(name, classes=1000), getattr(torchvision.models, name)()
    assert list(shapes(network).items()) == list(shapes(peer).items())


def torchvision_densenet(plan: DenseNetConfig) -> Any:
    """Its skeleton knows large images only: for small ones the stem is exchanged."""
    network = torchvision.models.DenseNet(plan.growth, plan.depths, plan.width, num_classes=CLASSES)
    if plan.small_images:
        network.features.conv0 = nn.Conv2d(3, plan.width, 3, padding=1, bias=False)
        for name in ("norm0", "relu0", "pool0"):
            delattr(network.features, name)
    return network


@pytest.mark.parametrize("small_images", [False, True])
def test_conventional_short_network_equals_torchvisions(small_images: bool) -> None:
    plan = DenseNetConfig(depths=DEPTHS, growth=8, width=12, small_images=small_images)
    network = DenseNet(conventional_layers(), config=plan, in_channels=3, classes=CLASSES)
    assert_same_network(network, torchvision_densenet(plan), encoded(2, 3, 24, 36)[:, :3])


def test_conventional_network_equals_torchvisions() -> None:
    peer = torchvision.models.densenet121(num_classes=CLASSES)
    assert_same_network(ours("densenet121"), peer, encoded(2, 3, 32, 40)[:, :3])


# Huang et al. (2017), table 2, in millions, for ten classes.
@pytest.mark.parametrize(
    ("name", "millions"), [("densenet100_12", 0.8), ("densenet250_24", 15.3), ("densenet190_40", 25.6)]
)
def test_conventional_networks_for_small_images_have_the_papers_size(name: str, millions: float) -> None:
    with torch.device("meta"):
        assert round(parameters(ours(name, classes=10)) / 1e6, 1) == millions
