"""B-cos linear layers in closed form are what the layer says, forward and backward, and where they are not used."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.model_zoo.bcos.explanation_mode import explanation_mode
from robustbench_bcos.model_zoo.bcos.folding import fold
from robustbench_bcos.model_zoo.bcos.layers import BcosLinear, learn_exponents
from robustbench_bcos.model_zoo.bcos.raw import RawBcosLinear
from tests.model_zoo.bcos.test_closed_form import assert_same, is_closed, normal, outcome
from tests.reference.bcos_transform import bcos_linear

FORMS: dict[str, dict[str, Any]] = {
    "as published": {},
    "maxout": {"max_out": 3},
    "b 1.25": {"b": 1.25},
    "b 2.5, maxout": {"b": 2.5, "max_out": 2},
    "raw": {"raw": True},
    "raw with a bias, b 1.5": {"raw": True, "bias": True, "b": 1.5},
}
"""Of layers of four inputs and three outputs."""


def frozen(*, raw: bool = False, bias: bool = False, **options: Any) -> BcosLinear:
    """A layer of float64 whose rows are constants."""
    layer = RawBcosLinear(nn.Linear(4, 3, bias=bias), b=options.get("b", 2.0)) if raw else BcosLinear(4, 3, **options)
    layer = layer.double().eval().requires_grad_(False)
    layer.linear.weight.copy_(normal(*layer.linear.weight.shape, seed=1))
    if bias:
        layer.linear.bias.copy_(normal(3, seed=3))
    return layer


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("shape", [(5, 4), (2, 3, 4)], ids=["rows", "tokens"])
def test_outputs_and_gradients_are_those_of_autograd_and_of_finite_differences(
    form: dict[str, Any], shape: tuple[int, ...]
) -> None:
    layer = frozen(**form)
    twin, features = fold(layer), normal(*shape, seed=4)
    assert is_closed(twin, features)
    assert_same(layer, twin, features)
    assert torch.autograd.gradcheck(twin, features.clone().requires_grad_())


@pytest.mark.parametrize("b", [1.25, 2.0])
def test_outputs_are_those_of_the_definition(b: float) -> None:
    layer, features = frozen(b=b, max_out=2), normal(5, 4, seed=4)
    outputs, _ = outcome(fold(layer), features)
    expected = bcos_linear(features.numpy(), layer.linear.weight.numpy(), b=b, max_out=2)
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_input_of_zeros_has_no_gradient(dtype: torch.dtype) -> None:
    outputs, gradient = outcome(fold(frozen(b=1.5)).to(dtype), torch.zeros(2, 4, dtype=dtype))
    assert not outputs.any()
    # Next to a cosine of 0 the epsilon on it is all there is: 1e-6 to the power of 0.5.
    torch.testing.assert_close(gradient, outcome(frozen(b=1.5).to(dtype), torch.zeros(2, 4, dtype=dtype))[1])


@pytest.mark.parametrize("what", ["B = 1", "explained", "trained", "not folded"])
def test_the_closed_form_is_left_where_it_does_not_hold(what: str) -> None:
    layer, features = frozen(b=1.0 if what == "B = 1" else 2.0), normal(5, 4, seed=4)
    if what == "trained":
        learn_exponents(layer.requires_grad_(), "layer")
    twin = layer if what in ("trained", "not folded") else fold(layer)
    with explanation_mode(twin if what == "explained" else frozen()):
        assert not is_closed(twin, features)


def test_a_gradient_that_is_to_be_differentiated_again_is_refused() -> None:
    features = normal(5, 4, seed=4).requires_grad_()
    with pytest.raises(RequestError, match="ask the model it is folded from"):
        torch.autograd.grad(fold(frozen())(features).sum(), features, create_graph=True)
