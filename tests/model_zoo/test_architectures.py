"""What holds for every architecture in the registry, and for one of each family where it takes a forward pass."""

import pytest
import torch
from torch import Tensor, nn

from robustbench_bcos.core.registry import Registry
from robustbench_bcos.model_zoo.architectures import (
    ARCHITECTURES,
    BCOS_PREFIX,
    Architecture,
    build_architecture,
    initialise,
)
from robustbench_bcos.model_zoo.architectures.bcosified import PREFIX as BCOSIFIED_PREFIX
from robustbench_bcos.model_zoo.registered import FILE
from tools.architectures import content

CLASSES = 7

SMALLEST = {
    "resnet8": ((8, 8), (9, 13)),
    "resnet20": ((8, 8), (9, 13)),
    "resnext29_32x4d": ((8, 8), (9, 13)),
    "cifar_resnet50": ((8, 8), (9, 13)),
    "resnet18": ((32, 32), (33, 47)),
    "densenet52_12": ((8, 8), (9, 13)),
    "densenet121": ((32, 32), (33, 47)),
    "convnext_atto": ((32, 32), (41, 70)),
    "simple_vit_ti": ((16, 16), (48, 32)),
    "vitc_ti": ((16, 16), (19, 50)),
}
"""The smallest networks of each family, and sizes of images that take its downsampling to an end, square and not.

There is no small VGG: test_vgg.py narrows the one there is.
"""

EACH = [f"{prefix}{name}" for name in SMALLEST for prefix in ("", BCOS_PREFIX)]


def built(name: str) -> nn.Module:
    channels = 6 if name.startswith(BCOS_PREFIX) else 3
    return build_architecture(name, in_channels=channels, classes=CLASSES, arguments={})


def images(size: tuple[int, int]) -> Tensor:
    pixels = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return torch.cat([pixels, 1 - pixels], dim=1)


@pytest.mark.parametrize("name", EACH)
def test_an_architecture_gives_finite_logits_and_gradients_on_images_of_any_size(name: str) -> None:
    network = built(name).eval()
    initialise(network, torch.Generator().manual_seed(1))
    network.double()
    for size in SMALLEST[name.removeprefix(BCOS_PREFIX)]:
        leaf = images(size)[:, : 6 if name.startswith(BCOS_PREFIX) else 3].requires_grad_()
        logits = network(leaf)
        (gradient,) = torch.autograd.grad((logits * torch.arange(1, CLASSES + 1)).sum(), leaf)
        assert logits.shape == (2, CLASSES)
        assert logits.isfinite().all()
        assert gradient.isfinite().all()
        assert gradient.flatten(1).any(dim=1).all()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_has_a_twin(name: str) -> None:
    if name.startswith(BCOSIFIED_PREFIX):
        twin = name.removeprefix(BCOSIFIED_PREFIX)
    else:
        twin = name.removeprefix(BCOS_PREFIX) if name.startswith(BCOS_PREFIX) else BCOS_PREFIX + name
    assert twin in ARCHITECTURES


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_key_layers_of_every_architecture_are_layers_it_has(name: str) -> None:
    registry: Registry[Architecture] = ARCHITECTURES
    layers = registry[name].key_layers
    bcos = registry[name].family == "bcos"
    with torch.device("meta"):
        network = build_architecture(name, in_channels=6 if bcos else 3, classes=CLASSES, arguments={})
    first, last = network.get_submodule(layers.first), network.get_submodule(layers.last)
    inner = "linear.weight" if bcos else "weight"
    assert first.get_parameter(inner).shape[0] == layers.filters
    assert first.get_parameter(inner).shape[1] == (6 if bcos else 3) * layers.patch
    assert last.get_parameter(inner).shape[0] == CLASSES
    if layers.norm is not None:
        assert network.get_submodule(layers.norm).state_dict()


def test_what_is_said_of_architectures_before_torch_is_imported_is_what_is_registered() -> None:
    assert FILE.read_text(encoding="utf-8") == content(), "run: python -m tools.architectures"
