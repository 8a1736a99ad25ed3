"""Folded twins give what their originals give: logits, input gradients, dynamic weights."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustbench_bcos.explanations.explanation import explain
from robustbench_bcos.model_zoo.architectures import build_architecture
from robustbench_bcos.model_zoo.bcos.folding import fold
from robustbench_bcos.model_zoo.bcos.layers import AbstractBcosLayer, BcosConv2d, BcosLinear
from robustbench_bcos.model_zoo.bcos.norms import NORM_LAYERS, BatchNormUncentred2d
from robustbench_bcos.model_zoo.models import load_model

# float64 through eight layers, relative to the largest value.
CLOSE = 1e-9


def images(count: int = 3) -> Tensor:
    return torch.rand((count, 3, 8, 12), generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def encoded(count: int = 3) -> Tensor:
    return torch.cat([images(count), 1 - images(count)], dim=1)


def make_network(*, signs: bool = True, **arguments: Any) -> nn.Module:
    """A frozen network whose norms are all away from their defaults, some with negative weights."""
    network = build_architecture("bcos_resnet8", in_channels=6, classes=7, arguments=arguments).double()
    for seed, (name, tensor) in enumerate(network.state_dict().items()):
        if tensor.is_floating_point():
            drawn = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
            tensor.copy_(drawn.abs() + 0.1 if name.endswith("running_var") or not signs else drawn)
    return network.eval().requires_grad_(False)


def outcome(network: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Logits, and the gradient of the third."""
    leaf = inputs.clone().requires_grad_()
    logits = network(leaf)
    (gradient,) = torch.autograd.grad(logits[:, 2].sum(), leaf)
    return logits.detach(), gradient


def assert_close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=CLOSE * expected.abs().max().item())


def assert_twins(network: nn.Module, inputs: Tensor) -> None:
    folded = fold(network)
    for found, expected in zip(outcome(folded, inputs), outcome(network, inputs), strict=True):
        assert_close(found, expected)
    found, expected = explain(folded, inputs), explain(network, inputs)
    assert_close(found.contributions, expected.contributions)


def norms_left(network: nn.Module) -> int:
    return sum(isinstance(module, BatchNormUncentred2d) for module in network.modules())


@pytest.mark.parametrize("max_out", [1, 2])
@pytest.mark.parametrize("b", [1.0, 1.5, 2.0, 2.5])
def test_folded_network_gives_the_same(b: float, max_out: int) -> None:
    assert_twins(make_network(b=b, max_out=max_out), encoded())


@pytest.mark.parametrize("norm", NORM_LAYERS)
@pytest.mark.parametrize("affine", ["full", "no-bias", "none"])
def test_whatever_the_norm_the_twin_gives_the_same(norm: str, affine: str) -> None:
    assert_twins(make_network(norm=norm, norm_affine=affine), encoded())


@pytest.mark.parametrize(
    ("arguments", "left"),
    [
        ({}, 0),
        ({"b": 1.0}, 0),
        ({"max_out": 2, "signs": False}, 0),
        ({"max_out": 2}, 9),
        ({"b": 2.5}, 9),
        ({"norm_affine": "full"}, 9),
        ({"norm_affine": "none"}, 0),
    ],
    ids=str,
)
def test_norms_are_folded_exactly_where_that_is_exact(arguments: dict[str, Any], left: int) -> None:
    network = make_network(**arguments)
    assert norms_left(network) == 9
    assert norms_left(fold(network)) == left


def test_filters_are_normalised_once() -> None:
    folded = fold(make_network(norm="none"))
    layers = [module for module in folded.modules() if isinstance(module, AbstractBcosLayer)]
    assert layers
    for layer in layers:
        norms = layer.linear.weight.flatten(1).norm(dim=1)
        torch.testing.assert_close(norms, torch.ones_like(norms))
        layer.linear.weight.mul_(2)
    assert not torch.allclose(folded(encoded()), fold(make_network(norm="none"))(encoded()))


@pytest.mark.parametrize("name", ["digits-bcos-b1.25", "digits-bcos-b2", "digits-bcos-adv-l2", "digits-natural"])
def test_packaged_models_fold_within_a_hundred_thousandth(name: str) -> None:
    model = load_model(name)
    inputs = torch.rand((16, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    for found, expected in zip(outcome(fold(model), inputs), outcome(model, inputs), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


def test_original_is_left_as_it_was() -> None:
    network = make_network()
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    before = network(encoded())
    fold(network, linear=True)
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    assert torch.equal(network(encoded()), before)
    assert outcome(network, encoded())[1].ne(outcome(fold(network, linear=True), encoded())[1]).any()


def test_folding_twice_is_folding_once() -> None:
    once = fold(make_network())
    assert torch.equal(fold(once)(encoded()), once(encoded()))


def test_training_network_is_folded_as_it_would_evaluate() -> None:
    network = make_network()
    expected = network(encoded())
    folded = fold(network.train().requires_grad_())
    assert network.training
    assert not folded.training
    assert not any(parameter.requires_grad for parameter in folded.parameters())
    assert_close(folded(encoded()), expected)


@pytest.mark.parametrize("norm", ["batch-uncentred", "layer-uncentred"])
def test_gradient_of_a_linearised_network_is_its_dynamic_weights(norm: str) -> None:
    network = make_network(norm=norm)
    targets = torch.full((3,), 2)
    assert_close(outcome(fold(network, linear=True), encoded())[1], explain(network, encoded(), targets).weights)


class Forked(nn.Module):
    """A convolution whose output is used before its norm, too; a norm must not be folded into what others see."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = BcosConv2d(6, 4, 3)
        self.norm = BatchNormUncentred2d(4)
        self.norm.bias = None
        self.head = BcosLinear(8, 7)

    def forward(self, inputs: Tensor) -> Tensor:
        responses = self.conv(inputs)
        return self.head(torch.cat([responses.mean((2, 3)), self.norm(responses).mean((2, 3))], dim=1))


def test_norms_of_unknown_modules_are_left_alone() -> None:
    network = Forked().double().eval().requires_grad_(False)
    network.norm.running_var.fill_(4.0)
    assert_twins(network, encoded())
    assert norms_left(fold(network)) == 1
