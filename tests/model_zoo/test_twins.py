"""What holds for convolutional twins: one skeleton, read off its tensors, explained to the last logit."""

from typing import Any, get_args

import pytest
import torch
from torch import nn

from robustbench_bcos.model_zoo.architectures import BCOS_PREFIX
from robustbench_bcos.model_zoo.architectures.layers import PooledClassMaps, PooledLinear
from robustbench_bcos.model_zoo.bcos.layers import AbstractBcosLayer, BcosConv2d
from robustbench_bcos.model_zoo.bcos.norms import Affine, BatchNormUncentred2d
from tests.model_zoo.peers import (
    NO_LOGIT_BIAS,
    assert_arguments_are_read_off,
    assert_contributions_sum_to_the_logit,
    encoded,
    ours,
)

SMALL = ("resnet8", "resnext29_32x4d", "cifar_resnet50", "densenet52_12")
LARGE = ("resnet18", "resnext50_32x4d", "densenet121")
"""Names of conventional twins for small and large images; test_folded_architectures.py folds them."""

each_twin = pytest.mark.parametrize("name", [*SMALL, *LARGE])


@each_twin
def test_twins_have_one_skeleton_and_differ_in_their_parts_only(name: str) -> None:
    conventional, bcos = skeleton(name), skeleton(BCOS_PREFIX + name)
    assert list(conventional) == list(bcos)
    pairs = {(type(conventional[key]), type(bcos[key])) for key in bcos}
    pool = {(nn.MaxPool2d, nn.AvgPool2d)} if name in LARGE else set()
    assert {(one, other) for one, other in pairs if one is not other} == pool | {
        (nn.Conv2d, BcosConv2d),
        (nn.BatchNorm2d, BatchNormUncentred2d),
        (nn.ReLU, nn.Identity),
        (PooledLinear, PooledClassMaps),
    }


@each_twin
def test_twins_have_convolutions_of_the_same_geometry(name: str) -> None:
    bcos = skeleton(BCOS_PREFIX + name)
    convolutions = {key: layer for key, layer in skeleton(name).items() if isinstance(layer, nn.Conv2d)}
    stem = next(iter(convolutions))
    for key, layer in convolutions.items():
        twin = bcos[key].get_submodule("linear")
        assert layer.in_channels == twin.in_channels or key == stem
        for attribute in ("out_channels", "kernel_size", "stride", "padding", "groups", "bias"):
            assert getattr(layer, attribute) == getattr(twin, attribute), (key, attribute)


def skeleton(name: str) -> dict[str, nn.Module]:
    """Modules by name, without the insides of B-cos layers."""
    with torch.device("meta"):
        network = ours(name)
    layers = {key for key, module in network.named_modules() if isinstance(module, AbstractBcosLayer)}
    return {key: module for key, module in network.named_modules() if key.rpartition(".")[0] not in layers}


AFFINES = [{"norm": "none"}, *({"norm": "batch", "norm_affine": affine} for affine in get_args(Affine))]


@pytest.mark.parametrize("given", AFFINES, ids=str)
@pytest.mark.parametrize("name", [*SMALL, *LARGE, "vgg11"])
def test_arguments_are_read_off_a_conventional_state(name: str, given: dict[str, Any]) -> None:
    assert_arguments_are_read_off(name, given)


@pytest.mark.parametrize("max_out", [1, 2, 3])
@pytest.mark.parametrize("given", AFFINES, ids=str)
@pytest.mark.parametrize("name", [*SMALL, *LARGE, "vgg11"])
def test_arguments_are_read_off_a_bcos_state(name: str, given: dict[str, Any], max_out: int) -> None:
    uncentred = given if given["norm"] == "none" else given | {"norm": "batch-uncentred"}
    assert_arguments_are_read_off(BCOS_PREFIX + name, {"max_out": max_out, **uncentred})


@each_twin
def test_contributions_sum_to_the_logit(name: str) -> None:
    assert_contributions_sum_to_the_logit(ours(BCOS_PREFIX + name, logit_bias=NO_LOGIT_BIAS), inputs(name))


def inputs(name: str) -> torch.Tensor:
    return encoded(2, 3, 8, 12) if name in SMALL else encoded(2, 3, 32, 40)
