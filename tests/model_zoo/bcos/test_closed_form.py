"""B-cos convolutions in closed form are what the layer says, forward and backward, and where they are not used."""

import copy
import subprocess
import sys
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd import forward_ad

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.model_zoo.bcos.closed_form import ConvGeometry, geometry_of, respond
from robustbench_bcos.model_zoo.bcos.explanation_mode import explanation_mode
from robustbench_bcos.model_zoo.bcos.folding import fold
from robustbench_bcos.model_zoo.bcos.layers import AbstractBcosLayer, BcosConv2d, learn_exponents
from robustbench_bcos.model_zoo.bcos.raw import RawBcosConv2d
from tests.reference.bcos_transform import bcos_conv2d, bcos_conv2d_gradient

FORMS: dict[str, dict[str, Any]] = {
    "as published": {},
    "strided": {"stride": (2, 1)},
    "unpadded": {"padding": (0, 0)},
    "padded beyond half a window": {"kernel_size": (1, 2), "padding": (1, 2)},
    "dilated": {"dilation": (2, 1)},
    "grouped": {"groups": 2},
    "depthwise": {"groups": 4},
    "maxout": {"max_out": 2},
    "grouped maxout": {"groups": 2, "max_out": 3},
    "b 1.25": {"b": 1.25},
    "b 2.5, grouped, maxout": {"b": 2.5, "groups": 2, "max_out": 2},
}


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def make_layer(channels: int = 4, outputs: int = 4, **arguments: Any) -> BcosConv2d:
    """A frozen layer of float64."""
    layer = BcosConv2d(channels, outputs, **{"kernel_size": (3, 2), "padding": (1, 1), **arguments}).double()
    layer.linear.weight.data.copy_(normal(*layer.linear.weight.shape, seed=1))
    return layer.eval().requires_grad_(False)


def folded(layer: BcosConv2d) -> BcosConv2d:
    """Its twin, which is known to use the closed form."""
    twin = fold(layer)
    assert twin.closed_form is not None
    return twin


def outcome(layer: nn.Module, features: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs, and the gradient of a mixture of them."""
    leaf = features.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    outputs = layer(leaf)
    (gradient,) = torch.autograd.grad((outputs * normal(*outputs.shape, seed=2).to(outputs.dtype)).sum(), leaf)
    return outputs.detach(), gradient


def assert_same(layer: nn.Module, twin: nn.Module, features: Tensor, tolerance: float = 1e-12) -> None:
    for found, expected in zip(outcome(twin, features), outcome(layer, features), strict=True):
        assert found.dtype == expected.dtype
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * max(expected.abs().max().item(), 1e-30))


def is_closed(layer: nn.Module, features: Tensor) -> bool:
    return "ClosedForm" in type(layer(features.clone().requires_grad_()).grad_fn).__name__


@pytest.mark.parametrize("arguments", FORMS.values(), ids=FORMS)
def test_outputs_and_gradients_are_those_of_the_definition(arguments: dict[str, Any]) -> None:
    layer = make_layer(**arguments)
    conv = layer.linear
    images, filters = normal(2, 4, 5, 4).numpy(), conv.weight.numpy()
    form = {"stride": conv.stride, "dilation": conv.dilation, "groups": conv.groups}
    form["padding"] = tuple((pixels, pixels) for pixels in conv.padding)
    outputs, gradient = outcome(folded(layer), torch.from_numpy(images))
    np.testing.assert_allclose(
        outputs, bcos_conv2d(images, filters, b=layer.b, max_out=layer.max_out, **form), rtol=0, atol=1e-12
    )
    mixture = normal(*outputs.shape, seed=2).numpy()
    expected = bcos_conv2d_gradient(images, filters, mixture, b=layer.b, max_out=layer.max_out, form=form)
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("arguments", FORMS.values(), ids=FORMS)
def test_gradients_are_those_of_finite_differences(arguments: dict[str, Any]) -> None:
    layer = folded(make_layer(**arguments))
    features = normal(1, 4, 4, 3).requires_grad_()
    assert is_closed(layer, features)
    assert torch.autograd.gradcheck(layer, features)


@settings(max_examples=60, deadline=None)
@given(
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    size=st.tuples(st.integers(9, 12), st.integers(9, 12)),
    groups=st.integers(1, 3),
    channels=st.integers(1, 3),
    outputs=st.integers(1, 3),
    b=st.sampled_from([1.25, 2.0, 2.5]),
    max_out=st.integers(1, 2),
)
def test_any_layer_is_what_autograd_makes_of_it(
    size: tuple[int, int], groups: int, channels: int, outputs: int, **arguments: Any
) -> None:
    arguments["kernel_size"] = arguments.pop("kernel")
    layer = make_layer(channels * groups, outputs * groups, groups=groups, **arguments)
    assert_same(layer, folded(layer), normal(2, channels * groups, *size))


@pytest.mark.parametrize("value", [0.0, 1.0, 1e-6, 1e-3, 1e6])
@pytest.mark.parametrize("b", [1.25, 2.0])
def test_features_that_are_hard_on_rounding_pass_as_well(value: float, b: float) -> None:
    layer = make_layer(b=b).float()
    features = torch.full((1, 4, 6, 6), value)
    assert_same(layer, folded(layer), features, 1e-5)
    assert_same(layer, folded(layer), features * normal(1, 4, 6, 6, dtype=torch.float32), 1e-5)


@pytest.mark.parametrize("b", [1.25, 2.0])
def test_filters_of_zeros_give_zeros_and_no_gradient(b: float) -> None:
    layer = make_layer(b=b)
    layer.linear.weight[0].zero_()
    assert_same(layer, folded(layer), normal(1, 4, 5, 5))
    layer.linear.weight.zero_()
    outputs, gradient = outcome(folded(layer), normal(1, 4, 5, 5))
    assert not outputs.any()
    assert not gradient.any()


@pytest.mark.parametrize("kind", ["channels_last", "transposed", "strided", "float32"])
def test_features_may_lie_in_memory_as_they_like(kind: str) -> None:
    layer, features = make_layer(groups=2), normal(2, 4, 6, 6)
    twin = folded(layer)
    if kind == "channels_last":
        twin, features = twin.to(memory_format=torch.channels_last), features.to(memory_format=torch.channels_last)
        assert twin(features).is_contiguous(memory_format=torch.channels_last)
    elif kind == "transposed":
        features = features.transpose(2, 3)
    elif kind == "strided":
        features = normal(2, 4, 12, 6)[:, :, ::2]
    else:
        layer, twin, features = layer.float(), twin.float(), features.float()
    assert_same(layer, twin, features, 1e-5 if kind == "float32" else 1e-12)


@pytest.mark.parametrize("arguments", FORMS.values(), ids=FORMS)
def test_without_gradients_the_outputs_are_the_same(arguments: dict[str, Any]) -> None:
    layer = folded(make_layer(**arguments))
    features = normal(2, 4, 6, 5)
    expected = layer(features.clone().requires_grad_()).detach()
    with torch.no_grad():
        torch.testing.assert_close(layer(features.clone().requires_grad_()), expected, rtol=0, atol=1e-14)
    with torch.inference_mode():
        torch.testing.assert_close(layer(features), expected, rtol=0, atol=1e-14)


def test_a_gradient_is_the_same_when_it_is_asked_for_again() -> None:
    layer, features = folded(make_layer()), normal(1, 4, 5, 5).requires_grad_()
    outputs = layer(features).sum()
    first, second = (torch.autograd.grad(outputs, features, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_gradients_that_can_be_differentiated_again_are_refused() -> None:
    features = normal(1, 4, 5, 5).requires_grad_()
    outputs = folded(make_layer())(features).sum()
    with pytest.raises(RequestError, match="differentiated again"):
        torch.autograd.grad(outputs, features, create_graph=True)


@pytest.mark.parametrize(
    "arguments",
    [
        {"b": 1.0},
        {"kernel_size": 3, "padding": "same"},
        {"padding_mode": "reflect"},
        {"padding_mode": "circular", "max_out": 2},
    ],
    ids=str,
)
def test_layers_without_a_closed_form_are_folded_without_it(arguments: dict[str, Any]) -> None:
    layer = make_layer(**arguments)
    twin = fold(layer)
    assert twin.closed_form is None
    assert_same(layer, twin, normal(2, 4, 6, 5))


def trained(layer: nn.Module, kind: str) -> nn.Module:
    """A copy in training, with unit filters or with raw ones."""
    if kind == "raw":
        conv = layer.linear
        settings = (conv.stride, conv.padding, conv.dilation, conv.groups)
        raw = nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size, *settings, bias=False)
        raw.weight.data = conv.weight.data.clone()
        made = RawBcosConv2d(raw, b=layer.b)
        made.max_out = layer.max_out
        return made.double().train()
    return copy.deepcopy(layer).train().requires_grad_()


def by_definition(layer: nn.Module, features: Tensor) -> Tensor:
    """What the layer says where autograd finds the gradients: the slow way, which everything else is held against."""
    return AbstractBcosLayer.forward(layer, features)


def all_gradients(outputs: Tensor, layer: nn.Module, features: Tensor) -> list[Tensor]:
    """By the features and the weight; then of a mixture of those, once more."""
    asked = [features, layer.linear.weight]
    first = torch.autograd.grad((outputs * normal(*outputs.shape, seed=2)).sum(), asked, create_graph=True)
    mixture = sum((one * normal(*one.shape, seed=3)).sum() for one in first)
    return [*first, *torch.autograd.grad(mixture, asked)]


@pytest.mark.parametrize("kind", ["unit", "raw"])
@pytest.mark.parametrize("arguments", FORMS.values(), ids=FORMS)
def test_filters_that_are_trained_have_the_gradients_that_autograd_finds(arguments: dict[str, Any], kind: str) -> None:
    layer = trained(make_layer(**arguments), kind)
    features = normal(2, 4, 5, 4).requires_grad_()
    outputs, expected = layer(features), by_definition(layer, features)
    assert is_closed(layer, features)
    torch.testing.assert_close(outputs, expected, rtol=0, atol=1e-12)
    once = [
        torch.autograd.grad(
            (one * normal(*one.shape, seed=2)).sum(), [features, layer.linear.weight], retain_graph=True
        )
        for one in (outputs, expected)
    ]
    twice = [all_gradients(one, layer, features) for one in (outputs, expected)]
    for found, right in zip(once[0] + tuple(twice[0]), once[1] + tuple(twice[1]), strict=True):
        torch.testing.assert_close(found, right, rtol=1e-9, atol=1e-11)


def test_the_first_layer_needs_no_gradient_of_its_image() -> None:
    layer, image = trained(make_layer(), "raw"), normal(2, 4, 5, 4)
    (found,) = torch.autograd.grad(layer(image).sum(), layer.linear.weight)
    (expected,) = torch.autograd.grad(by_definition(layer, image).sum(), layer.linear.weight)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_what_follows_a_layer_in_training_may_write_into_its_outputs() -> None:
    layer, features = trained(make_layer(), "raw"), normal(1, 4, 5, 4).requires_grad_()
    found = torch.autograd.grad(layer(features).mul_(3).sum(), [features, layer.linear.weight])
    expected = torch.autograd.grad(3 * by_definition(layer, features).sum(), [features, layer.linear.weight])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # Which torch.func itself asks for.
def test_transforms_of_torch_see_what_they_can_transform() -> None:
    layer, features = trained(make_layer(), "raw"), normal(3, 4, 5, 4)
    found = torch.func.vmap(torch.func.grad(lambda one: layer(one[None]).square().sum()))(features)
    leaf = features.clone().requires_grad_()
    (expected,) = torch.autograd.grad(by_definition(layer, leaf).square().sum(), leaf)
    torch.testing.assert_close(found, expected)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(features, features)
        assert forward_ad.unpack_dual(layer(dual)).tangent is not None


def test_filters_that_are_constants_are_in_closed_form_once_they_are_folded() -> None:
    layer, features = make_layer(), normal(1, 4, 5, 5)
    assert not is_closed(layer, features)
    assert is_closed(folded(layer), features)


@pytest.mark.parametrize("what", ["bias", "exponent", "explanation"])
def test_what_has_no_closed_form_in_training_is_left_to_autograd(what: str) -> None:
    layer, features = trained(make_layer(), "raw"), normal(1, 4, 5, 5)
    if what == "bias":
        layer.linear.bias = nn.Parameter(normal(4))
    if what == "exponent":
        learn_exponents(layer, "layer")
    with explanation_mode(layer) if what == "explanation" else nullcontext():
        assert not is_closed(layer, features)


def test_explanation_mode_holds_scales_constant() -> None:
    layer, features = make_layer(), normal(1, 4, 5, 5)
    twin = folded(layer)
    with explanation_mode(twin), explanation_mode(layer):
        assert_same(layer, twin, features)
    with pytest.raises(AssertionError, match="Tensor-likes"), explanation_mode(twin):
        assert_same(layer, twin, features)


def test_autocast_is_left_to_autograd() -> None:
    layer, features = make_layer().float(), normal(1, 4, 5, 5, dtype=torch.float32)
    twin = folded(layer)
    with torch.autocast("cpu", torch.bfloat16):
        assert not is_closed(twin, features)
        assert_same(layer, twin, features, 0.05)


def test_geometry_is_that_of_the_layer() -> None:
    conv = make_layer(stride=(2, 1), dilation=(1, 2), groups=2).linear
    geometry = ConvGeometry(stride=(2, 1), padding=(1, 1), dilation=(1, 2), groups=2, b=2.0, max_out=1)
    assert geometry_of(conv, b=2.0, max_out=1) == geometry


def test_features_without_gradient_get_none() -> None:
    geometry = ConvGeometry(stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1, b=2.0, max_out=1)
    assert not respond(normal(1, 2, 3, 3), normal(2, 2, 1, 1), geometry).requires_grad


COMPILED = """
import torch
from robustbench_bcos import fold
from tests.model_zoo.bcos.test_closed_form import assert_same, make_layer, normal

network = torch.nn.Sequential(make_layer(), make_layer(stride=(2, 2))).float()
compiled = torch.compile(fold(network), fullgraph=True, backend="aot_eager")
assert_same(network, compiled, normal(2, 4, 8, 8).float(), 1e-5)
"""


def test_compiled_network_gives_the_same() -> None:
    # The compiler cannot see through the checks of shapes that tests run under. What it has traced is run as it is:
    # to write it in C++ takes most of the time, and is torch's part.
    subprocess.run([sys.executable, "-c", COMPILED], check=True, timeout=300)
