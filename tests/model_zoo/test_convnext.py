"""ConvNeXts: B-cos ones against the published configurations, conventional ones against torchvision."""

import copy
from typing import Any

import pytest
import torch
from bcos.experiments.ImageNet.bcos_final_long.experiment_parameters import CONFIGS
from bcos.experiments.ImageNet.bcos_final_long.model import get_model
from torch import Tensor, nn
from torchvision.models import convnext as torchvision_convnext

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.model_zoo.architectures import initialise
from robustbench_bcos.model_zoo.architectures.convnext import SIZES
from robustbench_bcos.model_zoo.bcos.folding import fold
from robustbench_bcos.model_zoo.bcos.norms import BatchNormUncentred2d
from tests.model_zoo.peers import (
    CLASSES,
    NO_LOGIT_BIAS,
    assert_arguments_are_read_off,
    assert_folds,
    assert_same_network,
    encoded,
    ours,
    parameters,
    shapes,
)

PUBLISHED_NORMS = {"position": "pn", "batch-uncentred": "bnu"}


def official(name: str, norm: str, *, classes: int = CLASSES, b: float = 2.0, max_out: int = 1) -> Any:
    """Built as the published networks, which are tiny and base."""
    config = copy.deepcopy(CONFIGS[f"convnext_tiny_{PUBLISHED_NORMS[norm]}"]["model"])
    config["name"] = name
    config["args"] |= {"num_classes": classes, "logit_bias": NO_LOGIT_BIAS}
    config["bcos_args"] |= {"b": b, "max_out": max_out}
    return get_model(config)


def of_torchvision(size: str) -> nn.Module:
    """Torchvision's network, and of the size it has not, what its class makes of it."""
    if size != "atto":
        network: nn.Module = getattr(torchvision_convnext, f"convnext_{size}")(num_classes=CLASSES)
        return network
    widths = [SIZES[size].width * 2**stage for stage in range(4)]
    stages = zip(widths, [*widths[1:], None], SIZES[size].blocks, strict=True)
    made: nn.Module = torchvision_convnext.ConvNeXt(
        [torchvision_convnext.CNBlockConfig(*stage) for stage in stages], num_classes=CLASSES
    )
    return made


def images(*shape: int) -> Tensor:
    return encoded(*shape)[:, :3]


@pytest.mark.parametrize(("b", "max_out"), [(2.0, 1), (2.0, 2), (1.5, 1), (1.0, 2)])
@pytest.mark.parametrize("norm", PUBLISHED_NORMS)
def test_bcos_network_equals_the_published_one(norm: str, b: float, max_out: int) -> None:
    arguments = {"b": b, "max_out": max_out}
    network = ours("bcos_convnext_atto", norm=norm, logit_bias=NO_LOGIT_BIAS, **arguments)
    assert_same_network(network, official("convnext_atto", norm, **arguments), encoded(2, 3, 64, 40))


def test_default_norm_is_the_published_default() -> None:
    assert_same_network(
        ours("bcos_convnext_atto", logit_bias=NO_LOGIT_BIAS),
        official("convnext_atto", "position"),
        encoded(1, 3, 32, 32),
    )


def test_conventional_network_equals_torchvisions() -> None:
    assert_same_network(ours("convnext_atto"), of_torchvision("atto"), images(2, 3, 64, 40))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("norm", PUBLISHED_NORMS)
def test_tensors_of_every_bcos_size_are_the_official_ones(norm: str, size: str) -> None:
    with torch.device("meta"):
        network, peer = ours(f"bcos_convnext_{size}", norm=norm), official(f"convnext_{size}", norm)
    assert shapes(network) == shapes(peer)


@pytest.mark.parametrize("size", SIZES)
def test_tensors_of_every_conventional_size_are_torchvisions(size: str) -> None:
    with torch.device("meta"):
        assert shapes(ours(f"convnext_{size}")) == shapes(of_torchvision(size))


# Böhle et al. (2024) give 28.54 and 88.47 million; torchvision states its own.
@pytest.mark.parametrize(
    ("name", "arguments", "count", "entries"),
    [
        ("bcos_convnext_tiny", {"norm": "position"}, 28_543_392, 100),
        ("bcos_convnext_tiny", {"norm": "batch-uncentred"}, 28_543_392, 169),
        ("bcos_convnext_base", {"norm": "position"}, 88_466_304, 190),
        ("bcos_convnext_base", {"norm": "batch-uncentred"}, 88_466_304, 313),
        ("convnext_tiny", {}, 28_589_128, 182),
        ("convnext_small", {}, 50_223_688, 344),
        ("convnext_base", {}, 88_591_464, 344),
        ("convnext_large", {}, 197_767_336, 344),
    ],
)
def test_published_numbers_of_parameters_and_tensors(
    name: str, arguments: dict[str, Any], count: int, entries: int
) -> None:
    with torch.device("meta"):
        network = ours(name, classes=1000, **arguments)
    assert (parameters(network), len(network.state_dict())) == (count, entries)


def test_published_numbers_are_torchvisions() -> None:
    for size, count in (("tiny", 28_589_128), ("small", 50_223_688), ("base", 88_591_464), ("large", 197_767_336)):
        weights = getattr(torchvision_convnext, f"ConvNeXt_{size.title()}_Weights").IMAGENET1K_V1
        assert weights.meta["num_params"] == count


@pytest.mark.parametrize(
    ("arguments", "norms_left"),
    [
        ({"norm": "position"}, 0),
        ({"norm": "position", "b": 2.5, "max_out": 2}, 0),
        ({"norm": "batch-uncentred"}, 4),
        ({"norm": "batch-uncentred", "b": 1.0}, 4),
        ({"norm": "batch-uncentred", "b": 2.5}, 17),
    ],
    ids=str,
)
def test_folded_network_gives_the_same(arguments: dict[str, Any], norms_left: int) -> None:
    assert_folds(ours("bcos_convnext_atto", **arguments), encoded(2, 3, 32, 40), norms_left=norms_left)


def test_every_norm_behind_a_convolution_is_folded() -> None:
    network = ours("bcos_convnext_atto", norm="batch-uncentred")
    left = [name for name, module in fold(network).named_modules() if isinstance(module, BatchNormUncentred2d)]
    # Those before a convolution: of the three that halve the maps, and of the classifier.
    assert left == ["features.3.0", "features.5.0", "features.7.0", "classifier.0"]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("bcos_convnext_atto", {"max_out": 1, "norm": "position", "norm_affine": "no-bias"}),
        ("bcos_convnext_atto", {"max_out": 2, "norm": "batch-uncentred", "norm_affine": "no-bias"}),
        ("bcos_convnext_tiny", {"max_out": 3, "norm": "position", "norm_affine": "full"}),
        ("bcos_convnext_base", {"max_out": 1, "norm": "none"}),
        ("convnext_atto", {"norm": "position", "norm_affine": "full"}),
        ("convnext_large", {"norm": "batch", "norm_affine": "full"}),
    ],
)
def test_arguments_are_read_from_the_tensors(name: str, arguments: dict[str, Any]) -> None:
    assert_arguments_are_read_off(name, arguments)


@pytest.mark.parametrize("name", ["convnext_atto", "bcos_convnext_atto"])
def test_initial_weights_leave_nothing_undefined_and_keep_what_layers_begin_with(name: str) -> None:
    network, constants = ours(name), ours(name)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            for parameter in module.parameters():
                nn.init.constant_(parameter, float("nan"))
    initialise(network, torch.Generator().manual_seed(1))
    for key, tensor in network.state_dict().items():
        assert tensor.isfinite().all(), key
        if key.endswith("layer_scale"):
            assert (tensor == 1e-6).all()
        elif tensor.dim() == 1:
            assert torch.equal(tensor, torch.full_like(tensor, float(key.endswith("weight")))), key
        else:
            assert not torch.equal(tensor, constants.state_dict()[key]), key


@pytest.mark.parametrize(("height", "width"), [(31, 64), (40, 8)])
@pytest.mark.parametrize("name", ["convnext_atto", "bcos_convnext_atto"])
def test_image_that_is_too_small_is_refused(name: str, height: int, width: int) -> None:
    network, channels = ours(name), 6 if name.startswith("bcos_") else 3
    with pytest.raises(
        RequestError, match=f"^images have {height}x{width} pixels, expected at least 32x32 for a ConvNeX"
    ):
        network(torch.zeros(1, channels, height, width))
    assert network.eval()(torch.zeros(1, channels, 32, 32)).shape == (1, CLASSES)


def test_twins_have_filters_of_the_same_shape_in_the_same_order() -> None:
    conventional, bcos = filters("convnext_atto"), filters("bcos_convnext_atto")
    assert (conventional.pop(0), bcos.pop(0)) == ((40, 3, 4, 4), (40, 6, 4, 4))
    assert conventional == bcos


def filters(name: str) -> list[tuple[int, ...]]:
    found = [shape for key, shape in shapes(ours(name)).items() if len(shape) > 1 and not key.endswith("layer_scale")]
    return [(*shape, 1, 1)[:4] for shape in found]
