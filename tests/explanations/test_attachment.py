"""Maps that can be differentiated: their values are those of explanations, their gradients those of differences."""

from collections.abc import Callable
from contextlib import nullcontext
from itertools import product
from typing import Any

import pytest
import torch
from bcos.modules import bcosconv2d
from torch import Tensor, nn

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.explanations import METHODS
from robustbench_bcos.explanations.attachment import Explained, attachable_method, attachable_methods
from robustbench_bcos.explanations.explanation import explain
from robustbench_bcos.explanations.second_derivatives import Softened, has_rectifiers, is_curved
from robustbench_bcos.model_zoo.architectures import build_architecture
from robustbench_bcos.model_zoo.bcos.folding import fold
from robustbench_bcos.model_zoo.bcos.layers import BcosConv2d, BcosLinear
from robustbench_bcos.model_zoo.bcos.tokens import Attention, TokenNorm
from robustbench_bcos.model_zoo.classifier import ImageClassifier
from robustbench_bcos.model_zoo.encodings import ENCODINGS

CLASSES = 4
STEP = 1e-7


def images(count: int = 2) -> Tensor:
    return torch.rand((count, 3, 8, 8), generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class Tokens(nn.Module):
    """Patches that attend to each other."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = BcosConv2d(6, 8, 2, 2)
        self.attention = Attention(TokenNorm(8, affine="no-bias"), BcosLinear(8, 8), features=8, heads=2)
        self.head = BcosLinear(8, CLASSES)

    def forward(self, encoded: Tensor) -> Tensor:
        tokens = self.patches(encoded).flatten(2).mT
        return self.head(tokens + self.attention(tokens)).mean(dim=1)


def official() -> nn.Module:
    """Layers of the official package, which detach for themselves."""
    return nn.Sequential(
        bcosconv2d.BcosConv2d(6, 5, 3, padding=1, b=2, max_out=2),
        bcosconv2d.BcosConv2d(5, CLASSES, 3, stride=2, b=3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


def built(architecture: str, channels: int = 6, **arguments: Any) -> Callable[[], nn.Module]:
    return lambda: build_architecture(architecture, in_channels=channels, classes=CLASSES, arguments=arguments)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "bcos": built("bcos_resnet8"),
    "bcos of another b with max_out": built("bcos_resnet8", b=2.5, max_out=2),
    "bcos with statistics of the image": built("bcos_resnet8", norm="layer-uncentred"),
    "bcos with centred statistics": built("bcos_resnet8", norm="group"),
    "bcos with attention": Tokens,
    "bcos, official": official,
    "conventional": built("resnet8", 3),
}


def served() -> list[tuple[str, str]]:
    """Every method on every network that it serves; those that show it many images, on one of each family."""
    pairs = product(attachable_methods(), NETWORKS)
    return [
        (method, name)
        for method, name in pairs
        if (method != "dynamic_weights" or name.startswith("bcos"))
        and (attachable_method(method).points == 1 or name in ("bcos with statistics of the image", "conventional"))
    ]


def make(name: str) -> ImageClassifier:
    """In float64 and frozen, with values away from their defaults."""
    network = NETWORKS[name]().double()
    for seed, (entry, tensor) in enumerate(network.state_dict().items()):
        if tensor.is_floating_point():
            values = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
            tensor.copy_(values if "conv" in entry or tensor.dim() > 1 else values.abs() + 0.5)
    encoding = ENCODINGS["add_inverse" if name.startswith("bcos") else "none"]()
    return ImageClassifier(encoding, network).eval().requires_grad_(False)


@pytest.mark.parametrize(("method", "name"), served())
def test_gradients_of_maps_are_those_of_differences(method: str, name: str) -> None:
    model = make(name)
    softened = not name.startswith("bcos")
    explained = Explained(model, method)
    weights = torch.randn(images().shape[2:], generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def distance(tried: Tensor) -> Tensor:
        return (explained(tried)[:, CLASSES:] * weights.flatten()).sum(dim=1)

    leaf = images().requires_grad_()
    with Softened() if softened else nullcontext():
        (gradient,) = torch.autograd.grad(distance(leaf).sum(), leaf)
        for channel, row, column in ((0, 0, 0), (2, 3, 5)):
            moved = torch.zeros_like(images())
            moved[:, channel, row, column] = STEP
            difference = (distance(images() + moved) - distance(images() - moved)) / (2 * STEP)
            assert torch.allclose(
                gradient[:, channel, row, column], difference, rtol=1e-4, atol=1e-6 * gradient.abs().max()
            )
    assert (gradient != 0).any()


@pytest.mark.parametrize(("method", "name"), served())
def test_values_are_those_of_explanations(method: str, name: str) -> None:
    model = make(name)
    expected = explain(model, images(), method=method)
    found = Explained(model, method)(images().requires_grad_())
    assert torch.allclose(found[:, :CLASSES], expected.logits, rtol=1e-6)
    scale = expected.contributions.abs().max()
    assert torch.allclose(found[:, CLASSES:], expected.contributions.flatten(1), rtol=1e-5, atol=1e-6 * scale)


def test_gradients_are_those_of_softplus_and_values_those_of_the_model() -> None:
    model = make("conventional")
    assert has_rectifiers(model, images())
    assert not has_rectifiers(make("bcos"), images())
    exact, soft = (Explained(model, "input_x_gradient", softened=softened) for softened in (False, True))
    leaf = images().requires_grad_()
    values = soft(leaf)
    assert torch.allclose(values, exact(images()), rtol=1e-9)
    (gradient,) = torch.autograd.grad(values[:, CLASSES:].square().sum(), leaf)
    with Softened():
        outputs = exact(leaf)
        (expected,) = torch.autograd.grad(
            outputs, leaf, torch.cat([0 * values[:, :CLASSES], 2 * values[:, CLASSES:]], 1)
        )
    assert torch.allclose(gradient, expected, rtol=1e-9)


@pytest.mark.parametrize(("name", "curved"), [("bcos", True), ("conventional", False), ("linear", False)])
def test_a_model_without_second_derivatives_is_told(name: str, curved: bool) -> None:
    linear = nn.Sequential(nn.Flatten(), nn.Linear(192, CLASSES)).double()
    model = linear if name == "linear" else make(name)
    rng = PerImageRng.of(0, range(2))
    assert is_curved(model, images(), rng).tolist() == [curved, curved]
    with Softened():
        assert is_curved(model, images(), rng).tolist() == [name != "linear"] * 2


@pytest.mark.parametrize("method", sorted(set(METHODS) - {*attachable_methods()}))
def test_a_method_without_derivatives_is_refused_with_those_that_have_some(method: str) -> None:
    with pytest.raises(RequestError, match=rf"maps of {method} .* choose from dynamic_weights, gradcam"):
        Explained(make("bcos"), method)


def test_a_folded_copy_is_named_where_it_has_no_second_derivative() -> None:
    copy = fold(make("bcos"))
    with pytest.raises(RequestError, match=r"folded model .* ask the model it is folded from"):
        Explained(copy, "input_x_gradient")(images().requires_grad_())
