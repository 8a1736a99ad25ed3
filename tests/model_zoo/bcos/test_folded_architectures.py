"""Folding changes no network of the zoo, whatever its kind: exactly in float64, as far as it goes in float32."""

import pytest
import torch
import torchvision
from torch import Tensor, nn

from robustbench_bcos.attacks.searches.pgd import PGD
from robustbench_bcos.data.datasets.digits import Digits
from robustbench_bcos.data.subset import EvalSubset
from robustbench_bcos.model_zoo.architectures import ARCHITECTURES, BCOS_PREFIX
from robustbench_bcos.model_zoo.architectures.bcosified import PREFIX as BCOSIFIED_PREFIX
from robustbench_bcos.model_zoo.architectures.layers import bcos_layers, conventional_layers
from robustbench_bcos.model_zoo.architectures.vgg import Vgg
from robustbench_bcos.model_zoo.bcos.folding import fold
from robustbench_bcos.model_zoo.models import load_model
from tests.model_zoo.peers import (
    CLASSES,
    assert_folds,
    assert_proportionally_close,
    encoded,
    ours,
    outcomes,
    randomise,
)

KINDS = [
    "convnext_atto",
    "densenet52_12",
    "densenet121",
    "resnet8",
    "resnet18",
    "resnet50",
    "resnet56",
    "resnext29_32x4d",
    "simple_vit_ti",
    "vitc_ti",
]
"""A small network for each set of layers that a network of the zoo, or its B-cos twin, is built of; and a deep one."""

NARROW = "vgg11"
"""The kind of which no small one is registered, and a narrow one is built."""

DEEP = ("resnet110", "densenet100_12", "resnext47_32x4d")


def layers(name: str) -> frozenset[str]:
    with torch.device("meta"):
        return frozenset(type(module).__name__ for module in ours(name).modules())


def make(name: str) -> nn.Module:
    if not name.endswith(NARROW):
        return ours(name)
    parts = bcos_layers(classes=CLASSES) if name.startswith(BCOS_PREFIX) else conventional_layers()
    return Vgg(parts, stages=((8,), (8, 16), (16,)), in_channels=6 if parts.bcos else 3, classes=CLASSES)


def inputs_of(name: str, *, count: int = 2, pixels: int = 32) -> Tensor:
    inputs = encoded(count, 3, pixels, pixels)
    return inputs if name.startswith(BCOS_PREFIX) else inputs[:, :3]


def batch_norms(network: nn.Module) -> int:
    return sum(type(module) is nn.BatchNorm2d for module in network.modules())


def test_every_architecture_is_represented() -> None:
    represented = {layers(prefix + name) for name in (*KINDS, NARROW) for prefix in ("", BCOS_PREFIX)}
    # Converted networks are folded in test_raw.py, and those with a solver in test_odenet.py.
    own = [name for name in ARCHITECTURES if not name.startswith(BCOSIFIED_PREFIX) and "odenet" not in name]
    assert [name for name in own if layers(name) not in represented] == []


# The stem of a small DenseNet has no norm, and each layer's first norm comes before its convolution, as the last does.
BCOS_NORMS = {"densenet52_12": 24 + 3, "densenet100_12": 48 + 3, "densenet121": 58 + 4}


@pytest.mark.parametrize("name", [*KINDS, NARROW, *DEEP])
def test_bcos_network_is_the_same_function_with_the_same_dynamic_weights(name: str) -> None:
    network = make(BCOS_PREFIX + name)
    assert_folds(network, inputs_of(BCOS_PREFIX + name), norms_left=BCOS_NORMS.get(name, 0))


@pytest.mark.parametrize("name", [*KINDS, NARROW, *DEEP])
def test_conventional_network_is_the_same_function(name: str) -> None:
    network, inputs = make(name).double(), inputs_of(name)
    randomise(network, inputs)
    network.requires_grad_(False)
    folded = fold(network)
    assert batch_norms(folded) == BCOS_NORMS.get(name, 0)
    for found, expected in zip(outcomes(folded, inputs), outcomes(network, inputs), strict=True):
        assert_proportionally_close(found, expected)


def error(network: nn.Module, inputs: Tensor, exact: list[Tensor]) -> list[float]:
    """Of logits and gradients, relative to the largest."""
    found = outcomes(network, inputs)
    return [float((tensor - truth).abs().max() / truth.abs().max()) for tensor, truth in zip(found, exact, strict=True)]


# Deep ones round more, and fold no other layer.
@pytest.mark.parametrize("name", [*(name for name in KINDS if name not in ("densenet121", "resnet56")), NARROW])
def test_in_float32_the_folded_network_is_as_exact_as_the_network_itself(name: str) -> None:
    # Statistics over two positions, all that is left of two small images, would make everything of rounding.
    network, inputs = make(BCOS_PREFIX + name).double(), inputs_of(BCOS_PREFIX + name, pixels=64)
    randomise(network, inputs)
    network.requires_grad_(False).float()
    single = inputs.float()
    folded = fold(network).to(memory_format=torch.channels_last)
    truth = list(outcomes(network.double(), single.double()))
    network.float()
    errors = error(network, single, truth), error(folded, single, truth)
    for of_network, of_folded in zip(*errors, strict=True):
        assert of_folded <= max(1e-5, 3 * of_network)


@pytest.mark.parametrize("pixels", [0.0, 1.0, 1e-6], ids=["black", "white", "almost black"])
@pytest.mark.parametrize("name", ["digits-bcos-b1.25", "digits-bcos-b2", "digits-bcos-b2.5", "digits-natural"])
def test_uniform_images_pass_as_well(name: str, pixels: float) -> None:
    model = load_model(name)
    images = torch.full((1, 3, 8, 8), pixels)
    for found, expected in zip(outcomes(fold(model), images), outcomes(model, images), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("name", ["digits-bcos-b1.25", "digits-bcos-b2", "digits-natural"])
def test_the_same_images_fall(name: str) -> None:
    model, batch = load_model(name), EvalSubset.of(Digits("test"), 64).batch(0, 64)
    attack = PGD(steps=10)
    fallen = []
    for searched in (model, fold(model)):
        candidates, _ = attack(searched, batch.images, batch.labels, "l2", 0.5)
        fallen.append(model(candidates).argmax(dim=1) != batch.labels)
    assert 0 < fallen[0].sum() < 64
    assert torch.equal(*fallen)


def test_networks_of_others_are_left_as_they_are() -> None:
    network = torchvision.models.resnet18(num_classes=3).eval()
    folded = fold(network)
    assert batch_norms(folded) == batch_norms(network) == 20
    inputs = torch.rand((1, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    assert torch.equal(folded(inputs), network(inputs))


@pytest.mark.parametrize("affine", ["full", "no-bias", "none"])
def test_batch_norms_go_into_convolutions_whatever_they_learned(affine: str) -> None:
    network, inputs = ours("resnet8", norm_affine=affine).double(), encoded(2, 3, 8, 8)[:, :3]
    randomise(network, inputs)
    folded = fold(network.requires_grad_(False))
    assert batch_norms(network) == 9
    assert batch_norms(folded) == 0
    assert not any(parameter.requires_grad for parameter in folded.parameters())
    for found, expected in zip(outcomes(folded, inputs), outcomes(network, inputs), strict=True):
        assert_proportionally_close(found, expected)
