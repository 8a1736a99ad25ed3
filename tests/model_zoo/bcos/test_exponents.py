"""Exponents that are learned: their gradient, in the state, folded, explained, written and read."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.explanations.completeness import missing_share
from robustbench_bcos.explanations.explanation import explain
from robustbench_bcos.model_zoo.architectures import build_architecture
from robustbench_bcos.model_zoo.bcos.explanation_mode import explanation_mode
from robustbench_bcos.model_zoo.bcos.exponents import Exponent
from robustbench_bcos.model_zoo.bcos.folding import fold
from robustbench_bcos.model_zoo.bcos.layers import (
    AbstractBcosLayer,
    BcosConv2d,
    BcosLinear,
    learn_exponents,
    learned_exponents,
)
from robustbench_bcos.model_zoo.checkpoints.match import matching_architectures
from robustbench_bcos.model_zoo.checkpoints.write import write_weights
from robustbench_bcos.model_zoo.models import load_model

VALUES = [1.0001, 1.25, 2.0, 2.5, 7.0]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make_layer(kind: str, b: float) -> tuple[AbstractBcosLayer, Tensor]:
    layer: AbstractBcosLayer = (
        BcosConv2d(3, 4, 3, padding=1, b=b, max_out=2) if kind == "conv" else BcosLinear(5, 4, b=b)
    )
    layer = layer.double()
    with torch.no_grad():
        layer.linear.weight.copy_(normal(*layer.linear.weight.shape))
    learn_exponents(layer, "layer")
    layer.double()
    features = normal(2, 3, 4, 5, seed=1) if kind == "conv" else normal(6, 5, seed=1)
    features[0] = 0  # Where |cos| is 0, its logarithm is none.
    return layer, features


@pytest.mark.parametrize("b", VALUES)
@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_gradient_of_b_is_that_of_finite_differences(kind: str, b: float) -> None:
    layer, features = make_layer(kind, b)
    assert layer.exponent is not None
    assert layer.b == pytest.approx(b, rel=1e-6)
    weights = normal(*layer(features).shape, seed=2)
    (gradient,) = torch.autograd.grad((layer(features) * weights).sum(), layer.exponent.raw)
    raw, stride = layer.exponent.raw.detach().clone(), 1e-5
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            layer.exponent.raw.copy_(raw + sign * stride)
            values.append(float((layer(features) * weights).sum()))
    assert gradient != 0
    assert float(gradient) == pytest.approx((values[0] - values[1]) / (2 * stride), rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("b", VALUES)
def test_outputs_shrink_as_b_grows(b: float) -> None:
    layer, features = make_layer("linear", b)
    assert layer.exponent is not None
    (gradient,) = torch.autograd.grad(layer(features).abs().sum(), layer.exponent.raw)
    assert gradient < 0


@pytest.mark.parametrize("b", [1.25, 2.0, 3.7])
def test_a_frozen_layer_answers_as_the_learned_one(b: float) -> None:
    layer, features = make_layer("conv", b)
    before = layer(features)
    layer.b = layer.b
    assert layer.exponent is None
    torch.testing.assert_close(layer(features), before, rtol=0, atol=1e-5)


def make_network(how: str, b: float = 1.7) -> nn.Module:
    network = build_architecture("bcos_resnet8", in_channels=6, classes=5, arguments={"learn_b": how, "b": b}).double()
    for seed, module in enumerate(one for one in network.modules() if isinstance(one, nn.Conv2d)):
        with torch.no_grad():
            module.weight.copy_(normal(*module.weight.shape, seed=seed))
    for number, exponent in enumerate(one for one in network.modules() if isinstance(one, Exponent)):
        with torch.no_grad():
            exponent.raw += 0.3 * number
    return network.eval()


def encoded() -> Tensor:
    images = torch.rand((3, 3, 8, 8), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return torch.cat([images, 1 - images], dim=1)


@pytest.mark.parametrize("how", ["layer", "shared"])
def test_a_network_with_learned_exponents_is_folded_and_explained(how: str) -> None:
    network = make_network(how).requires_grad_(False)
    values = set(learned_exponents(network).values())
    assert len(learned_exponents(network)) == 10
    assert len(values) == (1 if how == "shared" else 10)
    folded = fold(network)
    assert not learned_exponents(folded)
    leaf, other = encoded().requires_grad_(), encoded().requires_grad_()
    logits, same = network(leaf), folded(other)
    torch.testing.assert_close(same, logits, rtol=1e-9, atol=1e-9)
    logits[:, 2].sum().backward()
    same[:, 2].sum().backward()
    torch.testing.assert_close(other.grad, leaf.grad, rtol=1e-7, atol=1e-9)
    assert missing_share(network, explain(network, encoded())) < 1e-9


def test_explanation_mode_holds_bs_factor_constant() -> None:
    network = make_network("layer")
    with explanation_mode(network):
        gradients = torch.autograd.grad(
            network(encoded()).sum(),
            [one.raw for one in network.modules() if isinstance(one, Exponent)],
            allow_unused=True,
        )
    assert set(gradients) == {None}


@pytest.mark.parametrize("how", ["layer", "shared"])
def test_weights_hold_exponents_and_say_that_they_were_learned(how: str, tmp_path: Path) -> None:
    network = make_network(how)
    write_weights(network, tmp_path / "net.safetensors")
    model = load_model(tmp_path / "net.safetensors", architecture="bcos_resnet8")
    read = {name.removeprefix("network."): b for name, b in learned_exponents(model).items()}
    assert read == pytest.approx(learned_exponents(network), rel=1e-6)
    names = [
        match.architecture for match in matching_architectures(network.state_dict(), ["bcos_resnet8", "bcos_resnet20"])
    ]
    assert names == ["bcos_resnet8"]


def test_what_cannot_be_learned_is_refused() -> None:
    with pytest.raises(RequestError, match=r"unknown learn_b 'channel'.*choose from layer, no, shared"):
        make_network("channel")
    with pytest.raises(RequestError, match="b must be above 1 to be learned, got 1"):
        make_network("shared", b=1.0)
    assert learned_exponents(make_network("no")) == {}
