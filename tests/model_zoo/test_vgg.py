"""VGG-11: the B-cos one against the official package, the conventional one against torchvision."""

from functools import partial
from typing import Any

import pytest
import torch
import torchvision
from bcos.models import vgg as peers
from torch import nn

from robustbench_bcos.model_zoo.architectures.layers import bcos_layers, conventional_layers
from robustbench_bcos.model_zoo.architectures.vgg import HIDDEN, VGG11, ConvolutionalHead, LinearHead, Vgg
from tests.model_zoo.peers import (
    CLASSES,
    NO_LOGIT_BIAS,
    assert_contributions_sum_to_the_logit,
    assert_folds,
    assert_same_network,
    encoded,
    official,
    ours,
    parameters,
    shapes,
)


def bcos(**arguments: Any) -> nn.Module:
    return ours("bcos_vgg11", logit_bias=NO_LOGIT_BIAS, **arguments)


@pytest.mark.parametrize("max_out", [1, 2])
def test_tensors_have_the_official_names_and_shapes(max_out: int) -> None:
    with torch.device("meta"):
        assert shapes(bcos(max_out=max_out)) == shapes(official(peers.vgg11_bnu, max_out=max_out))


def test_published_numbers_of_parameters_and_tensors() -> None:
    with torch.device("meta"):
        network = bcos(classes=1000)
    assert (round(parameters(network) / 1e6, 2), len(network.state_dict())) == (132.86, 43)
    names = shapes(network)
    assert {name.split(".")[1] for name in names if name.endswith("linear.weight") and "features" in name} == set(
        "0 3 6 8 11 13 16 18".split()
    )
    assert names["classifier.0.linear.weight"] == (4096, 512, 7, 7)
    assert names["classifier.2.linear.weight"] == (1000, 4096, 1, 1)


def narrow(channels: int) -> int:
    """A 16th of a width, so that the classifier has half a million weights in place of a hundred million."""
    return channels // 16 if channels >= 64 else channels


STAGES = tuple(tuple(map(narrow, stage)) for stage in VGG11)


def narrow_bcos(max_out: int) -> nn.Module:
    head = partial(ConvolutionalHead, hidden=narrow(HIDDEN))
    parts = bcos_layers(classes=CLASSES, max_out=max_out, logit_bias=NO_LOGIT_BIAS, head=head)
    return Vgg(parts, stages=STAGES, in_channels=6, classes=CLASSES)


def narrow_official(max_out: int) -> Any:
    """The official builder, whose layers are narrowed as it orders them."""

    def builder(conv_layer: Any, norm_layer: Any, **arguments: Any) -> Any:
        return peers.vgg11_bnu(
            conv_layer=lambda channels, out, **geometry: conv_layer(narrow(channels), narrow(out), **geometry),
            norm_layer=lambda channels: norm_layer(narrow(channels)),
            **arguments,
        )

    return official(builder, max_out=max_out)


@pytest.mark.parametrize("size", [(32, 32), (64, 96)])
@pytest.mark.parametrize("max_out", [1, 2])
def test_narrow_network_equals_the_official_one(max_out: int, size: tuple[int, int]) -> None:
    assert_same_network(narrow_bcos(max_out), narrow_official(max_out), encoded(2, 3, *size))


def test_folded_network_is_the_same_without_norms() -> None:
    assert_folds(narrow_bcos(1), encoded(2, 3, 64, 96), norms_left=0)


def test_contributions_sum_to_the_logit() -> None:
    assert_contributions_sum_to_the_logit(narrow_bcos(1), encoded(2, 3, 64, 96))


def test_conventional_tensors_have_torchvisions_names_and_shapes_in_its_order() -> None:
    with torch.device("meta"):
        network, peer = ours("vgg11", classes=1000), torchvision.models.vgg11_bn()
    assert list(shapes(network).items()) == list(shapes(peer).items())


def narrow_torchvision() -> Any:
    """Its parts are public, but for the classifier, whose layers are narrowed one by one."""
    vgg = torchvision.models.vgg
    settings = [width if width == "M" else narrow(width) for width in vgg.cfgs["A"]]
    with torch.device("meta"):
        network = vgg.VGG(nn.Identity(), CLASSES)
    network.features = vgg.make_layers(settings, batch_norm=True)
    for index, layer in enumerate(network.classifier):
        if isinstance(layer, nn.Linear):
            network.classifier[index] = nn.Linear(narrow(layer.in_features), narrow(layer.out_features))
    return network


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (224, 224)])
def test_narrow_conventional_network_equals_torchvisions(size: tuple[int, int]) -> None:
    parts = conventional_layers(head=partial(LinearHead, hidden=narrow(HIDDEN)))
    network = Vgg(parts, stages=STAGES, in_channels=3, classes=CLASSES)
    assert_same_network(network, narrow_torchvision(), encoded(2, 3, *size)[:, :3])


def test_dropout_is_torchvisions() -> None:
    def shares(network: nn.Module) -> dict[str, float]:
        return {name: module.p for name, module in network.named_modules() if isinstance(module, nn.Dropout)}

    with torch.device("meta"):
        assert shares(ours("vgg11")) == shares(torchvision.models.vgg11_bn()) != {}
