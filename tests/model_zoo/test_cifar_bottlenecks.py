"""ResNeXts and MadryLab's ResNet-50 for small images."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
import torchvision
from bcos.models import resnet as peers
from torch import nn

from robustbench_bcos.model_zoo.architectures.layers import bcos_layers, conventional_layers
from robustbench_bcos.model_zoo.architectures.resnet import CIFAR_RESNEXTS, MADRYLAB, ResNet
from tests.model_zoo.peers import (
    CLASSES,
    NO_LOGIT_BIAS,
    assert_same_function,
    assert_same_network,
    encoded,
    official,
    ours,
    parameters,
    randomise,
    shapes,
)
from tests.optional import importorskip_quietly


def bcos(name: str, **arguments: Any) -> nn.Module:
    return ours(f"bcos_{name}", logit_bias=NO_LOGIT_BIAS, **arguments)


@pytest.mark.parametrize("max_out", [1, 2])
@pytest.mark.parametrize("name", CIFAR_RESNEXTS)
def test_tensors_have_the_official_names_and_shapes(name: str, max_out: int) -> None:
    with torch.device("meta"):
        network, peer = bcos(name, max_out=max_out), official(getattr(peers, f"cifar10_{name}"), max_out=max_out)
    assert shapes(network) == shapes(peer)


def test_there_is_every_resnext_of_the_official_package() -> None:
    prefix = "cifar10_"
    assert set(CIFAR_RESNEXTS) == {
        name.removeprefix(prefix) for name in peers.__all__ if name.startswith(f"{prefix}resnext")
    }


@pytest.mark.parametrize(("name", "max_out"), [("resnext29_32x4d", 1), ("resnext29_16x8d", 2)])
def test_network_equals_the_official_one(name: str, max_out: int) -> None:
    peer = official(getattr(peers, f"cifar10_{name}"), max_out=max_out)
    assert_same_network(bcos(name, max_out=max_out), peer, encoded(2, 3, 8, 12))


def torchvision_resnext(groups: int, group_width: int) -> Any:
    """Its skeleton has four stages and a stem for large images: the stem is exchanged, the last stage left out."""
    resnet = torchvision.models.resnet
    network = resnet.ResNet(resnet.Bottleneck, [3, 3, 3, 1], CLASSES, groups=groups, width_per_group=group_width)
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    network.maxpool = network.layer4 = nn.Identity()
    network.fc = nn.Linear(1024, CLASSES)
    return network


@pytest.mark.parametrize(("groups", "group_width"), [(8, 64), (16, 64)])
def test_conventional_tensors_have_the_names_and_shapes_of_torchvisions_blocks(groups: int, group_width: int) -> None:
    with torch.device("meta"):
        network, peer = ours(f"resnext29_{groups}x{group_width}d"), torchvision_resnext(groups, group_width)
    assert shapes(network) == shapes(peer)


def test_conventional_network_equals_torchvisions_blocks() -> None:
    plan = replace(CIFAR_RESNEXTS["resnext29_8x64d"], group_width=4)
    network = ResNet(conventional_layers(), config=plan, in_channels=3, classes=CLASSES)
    assert_same_network(network, torchvision_resnext(8, 4), encoded(2, 3, 8, 12)[:, :3])


# Xie et al. (2017), table 7, in millions, for ten classes.
@pytest.mark.parametrize(("name", "millions"), [("resnext29_8x64d", 34.4), ("resnext29_16x64d", 68.1)])
def test_conventional_networks_have_the_papers_size(name: str, millions: float) -> None:
    with torch.device("meta"):
        assert parameters(ours(name, classes=10)) / 1e6 == pytest.approx(millions, abs=0.06)


SHORT = replace(MADRYLAB["cifar_resnet50"], depths=(2, 1, 1, 1), width=16)
"""A quarter of the width, and fewer of the same blocks."""


def test_cifar_resnet_50_has_madrylabs_names_and_shapes_in_its_order() -> None:
    madrylab = importorskip_quietly("robustness.cifar_models.resnet")
    with torch.device("meta"):
        network, peer = ours("cifar_resnet50", classes=10), madrylab.resnet50()
    assert list(shapes(network).items()) == list(shapes(peer).items())


def test_short_cifar_resnet_equals_madrylabs() -> None:
    madrylab = importorskip_quietly("robustness.cifar_models.resnet")
    peer = madrylab.ResNet(madrylab.Bottleneck, list(SHORT.depths), num_classes=CLASSES, wm=1 / 4)
    network = ResNet(conventional_layers(), config=SHORT, in_channels=3, classes=CLASSES)
    # Its last pool is 4x4, for images of 32x32.
    assert_same_network(network, peer, encoded(2, 3, 32, 32)[:, :3])


def renamed(name: str) -> str:
    name = name.replace("shortcut.", "downsample.")
    return f"fc.{name.removeprefix('linear.')}" if name.startswith("linear.") else name


@pytest.mark.parametrize("max_out", [1, 2])
def test_bcos_twin_of_madrylabs_resnet_50_has_the_official_tensors_under_its_own_names(max_out: int) -> None:
    with torch.device("meta"):
        network = bcos("cifar_resnet50", max_out=max_out)
        peer = official(peers.resnet50, max_out=max_out, small_inputs=True)
    assert {renamed(name): shape for name, shape in shapes(network).items()} == shapes(peer)


@pytest.mark.parametrize("max_out", [1, 2])
def test_bcos_twin_of_a_short_cifar_resnet_equals_the_official_one(max_out: int) -> None:
    parts = bcos_layers(classes=CLASSES, max_out=max_out, logit_bias=NO_LOGIT_BIAS)
    network = ResNet(parts, config=SHORT, in_channels=6, classes=CLASSES).double()
    builder = partial(peers.BcosResNet, peers.Bottleneck, list(SHORT.depths), inplanes=16, small_inputs=True)
    peer, images = official(builder, max_out=max_out).double().eval(), encoded(2, 3, 8, 12)
    randomise(network, images)
    peer.load_state_dict({renamed(name): tensor for name, tensor in network.state_dict().items()})
    assert_same_function(network, peer, images)
