"""Dynamic weights: a linear map that, for the networks that have one, sums up to the logit."""

import math
from typing import Any

import bcos.models.resnet
import pytest
import torch
from bcos.modules import norms as official_norms
from torch import Tensor, nn

from robustbench_bcos.explanations.explanation import explain
from robustbench_bcos.model_zoo.architectures import build_architecture
from robustbench_bcos.model_zoo.bcos.explanation_mode import explanation_mode
from robustbench_bcos.model_zoo.bcos.norms import NORM_LAYERS, Affine

CLASSES = 7
AFFINES: list[Affine] = ["full", "no-bias", "none"]
SHIFTED_BY_STATISTICS = {"batch", "all"}
"""Centred norms that subtract a running mean, which is a constant and not a function of the image."""

# float64 through eight layers, relative to the largest logit.
CLOSE = {"rtol": 1e-9, "atol": 1e-11}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def encoded(count: int = 3) -> Tensor:
    images = torch.rand((count, 3, 8, 12), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return torch.cat([images, 1 - images], dim=1)


def make_network(architecture: str = "bcos_resnet8", **arguments: Any) -> nn.Module:
    """A frozen network whose norms are all away from their defaults."""
    network = build_architecture(architecture, in_channels=6, classes=CLASSES, arguments=arguments).double()
    for seed, (name, tensor) in enumerate(network.state_dict().items()):
        if tensor.is_floating_point():
            values = normal(*tensor.shape, seed=seed)
            tensor.copy_(values.abs() + 0.1 if name.endswith("running_var") else values)
    return network.eval().requires_grad_(False)


def has_linear_map(norm: str, affine: Affine) -> bool:
    return norm == "none" or (affine != "full" and norm not in SHIFTED_BY_STATISTICS)


def gap(network: nn.Module, logit_bias: float) -> Tensor:
    """What contributions leave of the logit without its bias, relative to the largest logit."""
    explained = explain(network, encoded(), torch.tensor([4, 1, 6]))
    logits = explained.logits - logit_bias
    contributions = (explained.weights * encoded()).sum(dim=(1, 2, 3))
    return (logits[torch.arange(3), explained.targets] - contributions) / logits.abs().max()


COMBINATIONS = [(norm, affine) for norm in NORM_LAYERS for affine in AFFINES]


@pytest.mark.parametrize("max_out", [1, 2])
@pytest.mark.parametrize("b", [1.5, 2.0, 2.5])
@pytest.mark.parametrize(("norm", "affine"), [pair for pair in COMBINATIONS if has_linear_map(*pair)])
def test_contributions_sum_to_the_logit_without_its_bias(norm: str, affine: Affine, b: float, max_out: int) -> None:
    network = make_network(norm=norm, norm_affine=affine, b=b, max_out=max_out, logit_bias=1e-3)
    torch.testing.assert_close(gap(network, 1e-3), torch.zeros(3, dtype=torch.float64), **CLOSE)


@pytest.mark.parametrize(("norm", "affine"), [pair for pair in COMBINATIONS if not has_linear_map(*pair)])
def test_contributions_do_not_sum_to_the_logit_where_a_norm_adds_a_constant(norm: str, affine: Affine) -> None:
    network = make_network(norm=norm, norm_affine=affine, logit_bias=0.0)
    assert (gap(network, 0.0).abs() > 1e-3).all()


@pytest.mark.parametrize(
    "norm", [norm for norm in NORM_LAYERS if has_linear_map(norm, "no-bias") and not has_linear_map(norm, "full")]
)
def test_what_a_bias_takes_from_the_contributions_is_the_share_of_the_biases(norm: str) -> None:
    network = make_network(norm=norm, norm_affine="full", logit_bias=0.0)
    biases = [parameter for name, parameter in network.named_parameters() if name.endswith("bias")]
    explained = explain(network, encoded(), torch.tensor([4, 1, 6]))
    shares = bias_shares(network, biases, explained.targets)
    contributions = (explained.weights * encoded()).sum(dim=(1, 2, 3))
    logits = explained.logits[torch.arange(3), explained.targets]
    size = explained.logits.abs().max()
    torch.testing.assert_close((contributions + shares) / size, logits / size, **CLOSE)


def bias_shares(network: nn.Module, biases: list[nn.Parameter], targets: Tensor) -> Tensor:
    """Each image's sum of bias times the logit's derivative by it, all scales held constant."""
    shares = []
    for image, target in zip(encoded().split(1), targets, strict=True):
        for bias in biases:
            bias.requires_grad_()
        with explanation_mode(network):
            logit = network(image)[0, target]
        gradients = torch.autograd.grad(logit, biases)
        shares.append(sum((bias * by_bias).sum() for bias, by_bias in zip(biases, gradients, strict=True)))
        for bias in biases:
            bias.requires_grad_(False)
    return torch.stack([torch.as_tensor(share).detach() for share in shares])


@pytest.mark.parametrize("norm", sorted(SHIFTED_BY_STATISTICS))
def test_running_means_of_zero_restore_the_sum(norm: str) -> None:
    network = make_network(norm=norm, norm_affine="no-bias", logit_bias=0.0)
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.zero_()
    torch.testing.assert_close(gap(network, 0.0), torch.zeros(3, dtype=torch.float64), **CLOSE)


@pytest.mark.filterwarnings("ignore:Input tensor did not require grad:UserWarning")  # the official explanation's remark
def test_dynamic_weights_of_a_batch_equal_the_official_explanations_one_by_one() -> None:
    network = make_network("bcos_resnet20", norm="position-uncentred")
    peer = bcos.models.resnet.cifar10_resnet20(
        num_classes=CLASSES, norm_layer=official_norms.NoBias(official_norms.PositionNormUncentered2d)
    )
    peer.double().eval().load_state_dict(network.state_dict())
    explained = explain(network, encoded())
    for position, image in enumerate(encoded().split(1)):
        expected = peer.explain(image)
        assert explained.targets[position] == expected["prediction"]
        weights = expected["dynamic_linear_weights"][0]
        torch.testing.assert_close(
            explained.weights[position], weights, rtol=1e-7, atol=1e-9 * weights.abs().max().item()
        )


def test_logits_are_those_of_the_network_and_targets_their_largest() -> None:
    network = make_network()
    explained = explain(network, encoded())
    assert torch.equal(explained.logits, network(encoded()))
    assert torch.equal(explained.targets, explained.logits.argmax(dim=1))
    assert not explained.logits.requires_grad
    assert not explained.weights.requires_grad


def test_targets_choose_the_row_of_the_map() -> None:
    network, image = make_network(), encoded(1)
    rows = explain(network, image.expand(CLASSES, -1, -1, -1), torch.arange(CLASSES))
    sums = (rows.weights * image).sum(dim=(1, 2, 3))
    torch.testing.assert_close(sums - math.log(CLASSES - 1), rows.logits.diagonal(), **CLOSE)


def test_batch_is_explained_as_its_images_are_one_by_one() -> None:
    network, targets = make_network(norm="layer-uncentred"), torch.tensor([4, 1, 6])
    together = explain(network, encoded(), targets)
    for position, image in enumerate(encoded().split(1)):
        alone = explain(network, image, targets[position : position + 1])
        torch.testing.assert_close(together.weights[position], alone.weights[0], **CLOSE)


def test_explanation_is_the_linear_map_and_not_the_gradient() -> None:
    network = make_network(norm="layer-uncentred")
    leaf = encoded().requires_grad_()
    explained = explain(network, encoded(), torch.tensor([4, 1, 6]))
    (gradient,) = torch.autograd.grad(network(leaf)[torch.arange(3), explained.targets].sum(), leaf)
    assert not torch.allclose(explained.weights, gradient, rtol=0.1)


def test_input_and_network_are_left_as_they_were() -> None:
    network = make_network().requires_grad_()
    given = encoded().requires_grad_()
    first = explain(network, given)
    kept = first.weights.clone()
    second = explain(network, given, (first.targets + 1) % CLASSES)
    assert given.grad is None
    assert torch.equal(given, encoded())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.equal(first.weights, kept)
    assert not torch.equal(second.weights, kept)
    leaf = encoded().requires_grad_()
    (gradient,) = torch.autograd.grad(network(leaf).sum(), leaf)
    assert not torch.equal(gradient, second.weights)


def test_explanation_needs_no_gradient_to_be_asked_for_and_asks_for_none() -> None:
    network, given = make_network(), encoded()
    with torch.no_grad():
        explained = explain(network, given)
    assert not given.requires_grad
    assert torch.equal(explained.weights, explain(network, encoded()).weights)


@pytest.mark.parametrize("temperature", [0.5, 20.0])
def test_temperature_divides_the_weights(temperature: float) -> None:
    targets = torch.tensor([4, 1, 6])
    plain = explain(make_network(), encoded(), targets)
    divided = explain(make_network(temperature=temperature), encoded(), targets)
    torch.testing.assert_close(divided.weights, plain.weights / temperature, rtol=1e-12, atol=1e-20)
