"""ResNets with ImageNet's stem: B-cos ones against the official package, conventional ones against torchvision."""

from functools import partial
from typing import Any

import pytest
import torch
import torchvision
from bcos.models import resnet as peers
from torch import Tensor, nn

from robustbench_bcos.model_zoo.architectures.layers import bcos_layers, conventional_layers
from robustbench_bcos.model_zoo.architectures.resnet import IMAGENET, Bottleneck, ResNet, ResNetConfig
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

DEPTHS = (2, 1, 1, 1)
"""Blocks with and without projection; deeper networks have more of the same."""
KINDS = {"resnet": {}, "resnext": {"groups": 32, "group_width": 4}, "wide": {"group_width": 128}}
"""Bottlenecks, in groups and wide."""


def bcos(name: str, **arguments: Any) -> nn.Module:
    return ours(f"bcos_{name}", logit_bias=NO_LOGIT_BIAS, **arguments)


def photographs() -> Tensor:
    """Encoded; neither side is a multiple of the 32 that five halvings divide by."""
    return encoded(2, 3, 40, 56)


@pytest.mark.parametrize("max_out", [1, 2])
@pytest.mark.parametrize("name", IMAGENET)
def test_tensors_have_the_official_names_and_shapes(name: str, max_out: int) -> None:
    with torch.device("meta"):
        network, peer = bcos(name, max_out=max_out), official(getattr(peers, name), max_out=max_out)
    assert shapes(network) == shapes(peer)


def test_network_of_basic_blocks_equals_the_official_one() -> None:
    assert_same_network(bcos("resnet18"), official(peers.resnet18), photographs())


@pytest.mark.parametrize("max_out", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_bottleneck_equals_the_official_one(kind: str, max_out: int) -> None:
    plan = ResNetConfig(block=Bottleneck, depths=DEPTHS, width=16, **KINDS[kind])
    parts = bcos_layers(classes=CLASSES, max_out=max_out, logit_bias=NO_LOGIT_BIAS)
    builder = partial(
        peers.BcosResNet,
        peers.Bottleneck,
        list(DEPTHS),
        inplanes=16,
        groups=plan.groups,
        width_per_group=plan.group_width,
    )
    network = ResNet(parts, config=plan, in_channels=6, classes=CLASSES)
    assert_same_network(network, official(builder, max_out=max_out), photographs())


@pytest.mark.parametrize(
    ("name", "count", "entries"),
    [
        ("resnet18", 11_693_120, 101),
        ("resnet34", 21_797_568, 181),
        ("resnet50", 25_538_880, 266),
        ("resnet101", 44_504_896, 521),
        ("resnet152", 60_125_504, 776),
        ("resnext50_32x4d", 25_003_200, 266),
    ],
)
def test_published_numbers_of_parameters_and_tensors(name: str, count: int, entries: int) -> None:
    with torch.device("meta"):
        network = bcos(name, classes=1000)
    assert (parameters(network), len(network.state_dict())) == (count, entries)


def test_the_resnet_50_for_small_images_that_kept_this_stem_has_its_published_size() -> None:
    with torch.device("meta"):
        network = bcos("resnet50", classes=10)
    assert (parameters(network), len(network.state_dict())) == (23_511_360, 266)
    assert shapes(network)["fc.linear.weight"] == (10, 2048, 1, 1)


def test_on_images_of_32_pixels_the_resnet_50_ends_in_one_position_and_equals_the_official_one() -> None:
    network, images = bcos("resnet50", classes=10), encoded(2, 3, 32, 32)
    maps: list[torch.Size] = []
    network.get_submodule("layer4").register_forward_hook(lambda module, given, features: maps.append(features.shape))
    assert_same_network(network, official(peers.resnet50, classes=10), images)
    assert {shape[1:] for shape in maps} == {(2048, 1, 1)}


@pytest.mark.parametrize("name", IMAGENET)
def test_conventional_tensors_have_torchvisions_names_and_shapes_in_its_order(name: str) -> None:
    with torch.device("meta"):
        network, peer = ours(name, classes=1000), torchvision_network(name, 1000)
    assert list(shapes(network).items()) == list(shapes(peer).items())


def torchvision_network(name: str, classes: int = CLASSES) -> Any:
    return getattr(torchvision.models, name)(num_classes=classes)


def test_conventional_network_of_basic_blocks_equals_torchvisions() -> None:
    assert_same_network(ours("resnet18"), torchvision_network("resnet18"), photographs()[:, :3])


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_conventional_bottleneck_equals_torchvisions(kind: str) -> None:
    plan = ResNetConfig(block=Bottleneck, depths=DEPTHS, **KINDS[kind])
    resnet = torchvision.models.resnet
    peer = resnet.ResNet(resnet.Bottleneck, list(DEPTHS), CLASSES, groups=plan.groups, width_per_group=plan.group_width)
    network = ResNet(conventional_layers(), config=plan, in_channels=3, classes=CLASSES)
    assert_same_network(network, peer, photographs()[:, :3])
