"""B-cos layers against the official ones, and against the definition where the official ones are wrong or crash."""

import math
from typing import Any, NamedTuple, TypeVar

import bcos.modules as official
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.model_zoo.bcos.explanation_mode import explanation_mode
from robustbench_bcos.model_zoo.bcos.layers import BcosConv2d, BcosLinear, LogitLayer
from tests.reference import bcos_transform

L = TypeVar("L", bound=nn.Module)

EXPONENTS = [1.0, 1.25, 1.5, 2.0, 2.5]

# float64: every epsilon of the transform (1e-6 and 1e-12) is visible at this tolerance, rounding is not.
CLOSE = {"rtol": 1e-10, "atol": 1e-13}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Geometry(NamedTuple):
    """Arguments of a convolution from 4 channels, all of which the official layer can do."""

    outputs: int = 3
    kernel: int | tuple[int, int] = 3
    stride: int | tuple[int, int] = 1
    padding: int | tuple[int, int] = 0
    groups: int = 1
    max_out: int = 1

    def of_ours(self, b: float) -> BcosConv2d:
        layer = BcosConv2d(
            4, self.outputs, self.kernel, self.stride, self.padding, groups=self.groups, b=b, max_out=self.max_out
        )
        return randomised(layer)

    def of_theirs(self, b: float) -> nn.Module:
        outputs, kernel, stride, padding, groups, max_out = self
        layer = official.BcosConv2d(4, outputs, kernel, stride, padding, groups=groups, b=b, max_out=max_out)
        return layer.double()


GEOMETRIES = {
    "3x3": Geometry(),
    "1x1": Geometry(kernel=1),
    "padded": Geometry(padding=1),
    "strided": Geometry(stride=2, padding=1),
    "strided along one axis": Geometry(stride=(1, 3), padding=(0, 1)),
    "wide kernel": Geometry(kernel=(2, 3), padding=(1, 0)),
    "tall kernel": Geometry(kernel=(5, 1), padding=(2, 0), stride=(2, 1)),
    "max out": Geometry(max_out=2, padding=1),
    "max out of three": Geometry(kernel=1, max_out=3, stride=2),
    "large": Geometry(kernel=(5, 6), padding=(2, 1), stride=(2, 1)),
    "large and depthwise": Geometry(outputs=4, kernel=5, padding=2, groups=4),
    "groups": Geometry(outputs=6, groups=2, padding=1),
    "depthwise": Geometry(outputs=8, kernel=(3, 2), groups=4, padding=(1, 1), stride=(2, 1)),
    "groups and max out": Geometry(outputs=6, groups=2, max_out=3, padding=1, stride=(1, 2)),
}


def randomised(layer: L) -> L:
    layer.double()
    for seed, parameter in enumerate(layer.parameters()):
        parameter.data = normal(*parameter.shape, seed=seed)
    return layer


def value_and_gradients(layer: nn.Module, features: Tensor) -> dict[str, Tensor]:
    leaf = features.clone().requires_grad_()
    out = layer(leaf)
    weight = layer.get_parameter("linear.weight")
    by_input, by_weight = torch.autograd.grad((out * normal(*out.shape, seed=9)).sum(), [leaf, weight])
    return {"output": out.detach(), "gradient to the input": by_input, "gradient to the filters": by_weight}


def assert_same_function(ours: nn.Module, theirs: Any, features: Tensor) -> None:
    theirs.load_state_dict(ours.state_dict())
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(value_and_gradients(ours, features), value_and_gradients(theirs, features), **CLOSE)
    theirs.set_explanation_mode(True)
    with explanation_mode(ours):
        torch.testing.assert_close(value_and_gradients(ours, features), value_and_gradients(theirs, features), **CLOSE)


@pytest.mark.parametrize("b", EXPONENTS)
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_convolution_equals_the_official_one_with_and_without_explanation(geometry: Geometry, b: float) -> None:
    assert_same_function(geometry.of_ours(b), geometry.of_theirs(b), normal(2, 4, 7, 8))


@pytest.mark.filterwarnings("ignore:dilation > 1 is much slower:UserWarning")  # the official layer's own remark
@pytest.mark.parametrize("b", EXPONENTS)
@pytest.mark.parametrize("groups", [1, 2])
def test_dilated_convolution_equals_the_official_one(groups: int, b: float) -> None:
    ours = randomised(BcosConv2d(4, 6, 3, 2, 1, dilation=2, groups=groups, b=b))
    theirs = official.BcosConv2d(4, 6, 3, 2, 1, dilation=2, groups=groups, b=b).double()
    assert_same_function(ours, theirs, normal(2, 4, 7, 8))


@pytest.mark.parametrize("b", EXPONENTS)
@pytest.mark.parametrize("max_out", [1, 3])
@pytest.mark.parametrize("leading", [(), (2,), (2, 5)], ids=["one row", "rows", "batches of rows"])
def test_linear_layer_equals_the_official_one_with_and_without_explanation(
    leading: tuple[int, ...], max_out: int, b: float
) -> None:
    ours = randomised(BcosLinear(6, 4, b=b, max_out=max_out))
    theirs = official.BcosLinear(6, 4, b=b, max_out=max_out).double()
    assert_same_function(ours, theirs, normal(*leading, 6))


@pytest.mark.parametrize("b", EXPONENTS)
@pytest.mark.parametrize("max_out", [1, 3])
def test_linear_layer_equals_the_definition(max_out: int, b: float) -> None:
    layer, rows = randomised(BcosLinear(6, 4, b=b, max_out=max_out)), normal(5, 6)
    expected = bcos_transform.bcos_linear(rows.numpy(), layer.linear.weight.detach().numpy(), b=b, max_out=max_out)
    torch.testing.assert_close(layer(rows).detach(), torch.from_numpy(expected), **CLOSE)


def assert_defined(layer: BcosConv2d, images: Tensor, padding: tuple[tuple[int, int], tuple[int, int]]) -> None:
    conv = layer.linear
    expected = bcos_transform.bcos_conv2d(
        images.numpy(),
        conv.weight.detach().numpy(),
        b=layer.b,
        max_out=layer.max_out,
        stride=(conv.stride[0], conv.stride[1]),
        padding=padding,
        dilation=(conv.dilation[0], conv.dilation[1]),
        groups=conv.groups,
        padding_mode=conv.padding_mode,
    )
    torch.testing.assert_close(layer(images).detach(), torch.from_numpy(expected), **CLOSE)


@pytest.mark.parametrize("b", EXPONENTS)
@pytest.mark.parametrize(
    ("arguments", "padding"),
    [
        pytest.param({"kernel_size": 3, "dilation": (2, 1), "stride": (1, 2)}, (0, 0), id="dilation as a pair"),
        pytest.param({"kernel_size": 3, "dilation": (1, 1), "padding": 1}, (1, 1), id="dilation as a pair of ones"),
        pytest.param({"kernel_size": 1, "padding": 1}, (1, 1), id="padding beyond half the kernel"),
        pytest.param({"kernel_size": (2, 3), "padding": (3, 2)}, (3, 2), id="padding of a whole kernel"),
        pytest.param({"kernel_size": 3, "padding": "valid"}, (0, 0), id="valid padding"),
        pytest.param({"kernel_size": (3, 5), "padding": "same"}, (1, 2), id="same padding"),
        pytest.param({"kernel_size": 3, "padding": "same", "dilation": (1, 2)}, (1, 2), id="same padding, dilated"),
        pytest.param({"kernel_size": 2, "dilation": 2, "max_out": 2}, (0, 0), id="dilation with max out"),
        pytest.param({"kernel_size": 2, "dilation": 3, "max_out": 3, "groups": 2}, (0, 0), id="and with groups"),
        pytest.param({"kernel_size": 3, "padding": (2, 1), "padding_mode": "reflect"}, (2, 1), id="reflected"),
        pytest.param({"kernel_size": 3, "padding": (1, 2), "padding_mode": "replicate"}, (1, 2), id="replicated"),
        pytest.param({"kernel_size": 3, "padding": (1, 2), "padding_mode": "circular"}, (1, 2), id="circular"),
        pytest.param(
            {"kernel_size": (3, 5), "padding": "same", "padding_mode": "reflect", "groups": 2, "max_out": 2},
            (1, 2),
            id="all at once",
        ),
    ],
)
def test_convolution_equals_the_definition_where_the_official_one_fails(
    arguments: dict[str, Any], padding: tuple[int, int], b: float
) -> None:
    layer = randomised(BcosConv2d(4, 2, **arguments, b=b))
    assert_defined(layer, normal(2, 4, 5, 6), ((padding[0], padding[0]), (padding[1], padding[1])))


# torch's own remark on how it computes an uneven padding.
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
@pytest.mark.parametrize("padding_mode", ["zeros", "circular"])
def test_same_padding_of_an_even_kernel_puts_the_odd_pixel_below_and_to_the_right(padding_mode: Any) -> None:
    layer = randomised(BcosConv2d(3, 2, (2, 4), padding="same", padding_mode=padding_mode))
    assert layer(normal(1, 3, 5, 6)).shape == (1, 2, 5, 6)
    assert_defined(layer, normal(1, 3, 5, 6), ((0, 1), (1, 2)))


@pytest.mark.parametrize("seed", range(40))
def test_any_convolution_equals_the_definition(seed: int) -> None:
    draw = np.random.default_rng(seed)
    groups, max_out = (int(draw.choice(choices)) for choices in ([1, 2, 4], [1, 2, 3]))
    kernel, stride, padding = (
        tuple(int(n) for n in draw.integers(low, high, 2)) for low, high in ((1, 4), (1, 4), (0, 4))
    )
    dilation = tuple(int(n) for n in draw.integers(1, 3, 2))
    layer = BcosConv2d(
        4,
        groups * int(draw.integers(1, 3)),
        (kernel[0], kernel[1]),
        (stride[0], stride[1]),
        (padding[0], padding[1]),
        dilation=(dilation[0], dilation[1]),
        groups=groups,
        padding_mode=draw.choice(["zeros", "reflect", "replicate", "circular"]).item(),
        b=float(draw.choice([*EXPONENTS, draw.uniform(1, 4)])),
        max_out=max_out,
    )
    images = normal(1, 4, 5, 6, seed=seed)
    assert_defined(randomised(layer), images, ((padding[0], padding[0]), (padding[1], padding[1])))


@pytest.mark.parametrize("b", EXPONENTS)
def test_epsilons_vanish_beside_ordinary_patches(b: float) -> None:
    layer, images = randomised(BcosConv2d(3, 4, 2, b=b)), 1000 * normal(2, 3, 2, 2)
    patches, filters = images.flatten(1), layer.linear.weight.detach().flatten(1)
    cosine = nn.functional.cosine_similarity(patches[:, None], filters, dim=-1)
    paper = cosine.abs() ** (b - 1) * cosine * patches.norm(dim=1, keepdim=True)
    # 1e-6 is added to cosines, of which the smallest here is near 0.01.
    torch.testing.assert_close(layer(images).detach().flatten(1), paper, rtol=1e-3, atol=0)


@pytest.mark.parametrize("b", EXPONENTS)
@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_scale_of_a_filter_changes_nothing(scale: float, b: float) -> None:
    for layer, features in (
        (randomised(BcosConv2d(4, 3, 3, b=b)), normal(2, 4, 5, 6)),
        (randomised(BcosLinear(4, 3, b=b)), normal(2, 4)),
    ):
        before = layer(features)
        layer.linear.weight.data[1] *= scale
        torch.testing.assert_close(layer(features), before, **CLOSE)


@pytest.mark.parametrize("b", EXPONENTS)
@pytest.mark.parametrize("max_out", [1, 2])
def test_filter_of_zeros_answers_zero_and_poisons_no_gradient(max_out: int, b: float) -> None:
    for layer, features in (
        (randomised(BcosConv2d(4, 3, 2, padding=1, b=b, max_out=max_out)).float(), normal(2, 4, 5, 6).float()),
        (randomised(BcosLinear(4, 3, b=b, max_out=max_out)).float(), normal(2, 4).float()),
    ):
        layer.linear.weight.data[max_out : 2 * max_out] = 0
        results = value_and_gradients(layer, features)
        assert not results["output"][:, 1].any()
        for name, result in results.items():
            assert result.abs().max() < 100, name  # NaN is not less either


def test_filter_of_zeros_in_a_convolution_equals_the_definition() -> None:
    layer = randomised(BcosConv2d(4, 3, 2, max_out=2))
    layer.linear.weight.data[3] = 0
    assert_defined(layer, normal(2, 4, 5, 6), ((0, 0), (0, 0)))


@pytest.mark.parametrize("b", EXPONENTS)
def test_black_patch_answers_zero_with_finite_gradients(b: float) -> None:
    for layer, features in (
        (randomised(BcosConv2d(4, 3, 2, b=b)).float(), torch.zeros(2, 4, 5, 6)),
        (randomised(BcosLinear(4, 3, b=b)).float(), torch.zeros(2, 4)),
    ):
        results = value_and_gradients(layer, features)
        assert not results["output"].any()
        for name, result in results.items():
            assert result.isfinite().all(), name


@pytest.mark.parametrize("b", EXPONENTS)
@pytest.mark.parametrize("max_out", [1, 2])
def test_explained_gradient_is_the_scaled_winning_filter(max_out: int, b: float) -> None:
    layer, row = randomised(BcosLinear(6, 3, b=b, max_out=max_out)), normal(6)
    units = nn.functional.normalize(layer.linear.weight.detach(), dim=1).view(3, max_out, 6)
    winners = units[torch.arange(3), (units @ row).argmax(dim=1)]
    scale = layer(row).detach() / (winners @ row)
    with explanation_mode(layer):
        rows = torch.autograd.functional.jacobian(layer, row)
    torch.testing.assert_close(rows, scale[:, None] * winners, **CLOSE)


@pytest.mark.parametrize("layer", [BcosConv2d, BcosLinear])
@pytest.mark.parametrize("b", [0.999, 0.0, -2.0, math.nan])
def test_b_below_one_is_refused_with_a_remedy(layer: type[BcosConv2d | BcosLinear], b: float) -> None:
    with pytest.raises(RequestError, match=rf"b must be at least 1, got {b}: choose"):
        layer(4, 3, b=b)


@pytest.mark.parametrize("layer", [BcosConv2d, BcosLinear])
@pytest.mark.parametrize("max_out", [0, -1])
def test_max_out_below_one_is_refused_with_a_remedy(layer: type[BcosConv2d | BcosLinear], max_out: int) -> None:
    with pytest.raises(RequestError, match=rf"max_out must be at least 1, got {max_out}: choose"):
        layer(4, 3, max_out=max_out)


@pytest.mark.parametrize("max_out", [1, 2])
def test_state_is_one_tensor_in_the_shape_of_checkpoints(max_out: int) -> None:
    convolution = BcosConv2d(4, 6, (3, 5), groups=2, max_out=max_out)
    linear = BcosLinear(4, 6, max_out=max_out)
    assert {name: tuple(t.shape) for name, t in convolution.state_dict().items()} == {
        "linear.weight": (6 * max_out, 2, 3, 5)
    }
    assert {name: tuple(t.shape) for name, t in linear.state_dict().items()} == {"linear.weight": (6 * max_out, 4)}


@pytest.mark.parametrize("temperature", [None, 0.5, 10.0])
@pytest.mark.parametrize("bias", [None, 0.0, -2.25])
def test_logit_layer_divides_by_the_temperature_then_adds_the_bias(
    temperature: float | None, bias: float | None
) -> None:
    layer, logits = LogitLayer(temperature=temperature, bias=bias), normal(2, 3)
    torch.testing.assert_close(layer(logits), logits / (temperature or 1) + (bias or 0), rtol=0, atol=0)
    torch.testing.assert_close(layer(logits), official.LogitLayer(temperature, bias)(logits), rtol=0, atol=0)
    assert not layer.state_dict()
