"""Whole networks: B-cos ones against the published configurations, conventional ones against a plain re-computation."""

import copy
import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from bcos.experiments.CIFAR10.norm_ablations_final.experiment_parameters import CONFIGS
from bcos.experiments.CIFAR10.norm_ablations_final.model import get_model
from bcos.models.resnet import cifar10_resnet110
from torch import Tensor, nn

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.explanations.explanation import explain
from robustbench_bcos.model_zoo.architectures import build_architecture, initialise
from robustbench_bcos.model_zoo.bcos.norms import NORM_LAYERS, Affine
from tests.model_zoo.peers import (
    CLASSES,
    CLOSE,
    NO_LOGIT_BIAS,
    dynamic_weights_of_peer,
    encoded,
    normal,
    ours,
    outcomes,
    parameters,
    shapes,
)
from tests.model_zoo.peers import official as built_by_peer

DEPTHS = [20, 32, 44, 56]
PUBLISHED_NORMS = {
    "none": "",
    "batch": "_bn",
    "batch-uncentred": "_bnu",
    "all": "_an",
    "all-uncentred": "_anu",
    "group": "_gn",
    "group-uncentred": "_gnu",
    "instance": "_in",
    "instance-uncentred": "_inu",
    "layer": "_ln",
    "layer-uncentred": "_lnu",
    "position": "_pn",
    "position-uncentred": "_pnu",
}
PUBLISHED_AFFINE = {"full": "", "no-bias": "-linear", "none": "-unaffine"}


def official(
    norm: str,
    affine: str,
    *,
    depth: int = 20,
    b: float = 2.0,
    max_out: int = 1,
    classes: int = CLASSES,
    **arguments: float,
) -> Any:
    suffix = "" if norm == "none" else PUBLISHED_NORMS[norm] + PUBLISHED_AFFINE[affine]
    config = copy.deepcopy(CONFIGS[f"resnet_{depth}{suffix}"]["model"])
    config["args"] |= {"num_classes": CLASSES, **arguments}
    config["bcos_args"] |= {"b": b, "max_out": max_out}
    return get_model(config)


def randomise(network: nn.Module) -> None:
    """Filters, weights of norms of both signs, biases and running statistics, all away from their defaults."""
    for seed, (name, tensor) in enumerate(network.state_dict().items()):
        if tensor.is_floating_point():
            values = normal(*tensor.shape, seed=seed)
            if name.endswith("running_var"):
                values = values.abs() + 0.1
            elif name.endswith("running_mean"):
                values = 0.1 * values
            tensor.copy_(values)


def assert_proportionally_close(actual: Tensor, expected: Tensor) -> None:
    # Signals shrink from layer to layer, the more the larger B. But instance norm at B = 1 answers zero to any image,
    # since its features have mean 0, and rounding errors are not to be blown up.
    size = expected.abs().max().clamp_min(1e-7)
    torch.testing.assert_close(actual / size, expected / size, **CLOSE)


def assert_same_network(network: nn.Module, peer: Any) -> None:
    """Exchange of states both ways; then logits, gradients, and both again in explanation mode."""
    network.double().eval()
    peer.double().eval()
    randomise(network)
    peer.load_state_dict(network.state_dict())
    randomise(peer)
    network.load_state_dict(peer.state_dict())
    inputs = encoded(2, 3, 8, 12)
    targets = torch.tensor([4, 1])
    for actual, expected in zip(outcomes(network, inputs), outcomes(peer, inputs), strict=True):
        assert_proportionally_close(actual, expected)
    explained = explain(network, inputs, targets)
    assert_proportionally_close(explained.logits, peer(inputs).detach())
    assert_proportionally_close(explained.weights, dynamic_weights_of_peer(peer, inputs, targets))


@pytest.mark.parametrize(("b", "max_out"), [(1.0, 1), (1.5, 2), (2.0, 1), (2.5, 2)])
@pytest.mark.parametrize("norm", PUBLISHED_NORMS)
def test_network_equals_the_published_one_for_every_norm_and_exponent(norm: str, b: float, max_out: int) -> None:
    arguments = {"b": b, "max_out": max_out, "logit_bias": NO_LOGIT_BIAS}
    network = ours("bcos_resnet20", norm=norm, norm_affine="no-bias", **arguments)
    assert_same_network(network, official(norm, "no-bias", **arguments))


@pytest.mark.parametrize("affine", ["full", "none"])
@pytest.mark.parametrize("norm", [norm for norm in PUBLISHED_NORMS if norm != "none"])
def test_network_equals_the_published_one_with_all_and_with_no_affine_parameters(norm: str, affine: Affine) -> None:
    network = ours("bcos_resnet20", norm=norm, norm_affine=affine, max_out=2, logit_bias=NO_LOGIT_BIAS)
    assert_same_network(network, official(norm, affine, max_out=2, logit_bias=NO_LOGIT_BIAS))


def test_every_norm_is_compared() -> None:
    assert set(PUBLISHED_NORMS) == set(NORM_LAYERS)


@pytest.mark.parametrize("depth", DEPTHS)
def test_default_network_is_the_published_default_in_the_precision_of_checkpoints(depth: int) -> None:
    network, peer = ours(f"bcos_resnet{depth}").eval(), official("batch-uncentred", "no-bias", depth=depth).eval()
    randomise(network)
    peer.load_state_dict(network.state_dict())
    network.load_state_dict(peer.state_dict())
    # The published configuration states -ln(9), which belongs to ten classes.
    peer.logit_layer.logit_bias = -math.log(CLASSES - 1)
    inputs = encoded(2, 3, 8, 12).float()
    with torch.no_grad():
        torch.testing.assert_close(network(inputs), peer(inputs), rtol=0, atol=1e-5)


def test_temperature_divides_before_the_bias_is_added_as_published() -> None:
    arguments = {"logit_bias": -1.25, "b": 1.5}
    network = ours("bcos_resnet20", temperature=0.01, **arguments)
    assert_same_network(network, official("batch-uncentred", "no-bias", logit_temperature=0.01, **arguments))


@pytest.mark.parametrize("norm", ["batch", "batch-uncentred", "all-uncentred", "group"])
def test_training_step_equals_the_official_one_in_every_gradient_and_statistic(norm: str) -> None:
    network = ours("bcos_resnet20", norm=norm, max_out=2, norm_affine="full", logit_bias=NO_LOGIT_BIAS).double()
    peer = official(norm, "full", max_out=2, logit_bias=NO_LOGIT_BIAS).double()
    randomise(network)
    peer.load_state_dict(network.state_dict())
    inputs = encoded(3, 3, 8, 12)
    gradients = {}
    for party, model in (("ours", network), ("theirs", peer)):
        model(inputs).square().mean().backward()
        gradients[party] = {name: parameter.grad for name, parameter in model.named_parameters()}
    for name, expected in gradients["theirs"].items():
        assert_proportionally_close(gradients["ours"][name], expected)
    torch.testing.assert_close(network.state_dict(), peer.state_dict(), **CLOSE)


@pytest.mark.parametrize(
    ("depth", "without_norm", "with_norm"),
    [
        (20, (271_328, 22), (272_112, 106)),
        (32, (464_864, 34), (466_096, 166)),
        (44, (658_400, 46), (660_080, 226)),
        (56, (851_936, 58), (854_064, 286)),
    ],
)
def test_published_numbers_of_parameters_and_tensors(
    depth: int, without_norm: tuple[int, int], with_norm: tuple[int, int]
) -> None:
    bare, normed = ours(f"bcos_resnet{depth}", classes=10, norm="none"), ours(f"bcos_resnet{depth}", classes=10)
    assert (parameters(bare), len(bare.state_dict())) == without_norm
    assert (parameters(normed), len(normed.state_dict())) == with_norm


def test_max_out_doubles_the_filters_of_every_layer() -> None:
    assert parameters(ours("bcos_resnet56", classes=10, norm="none", max_out=2)) == 2 * 851_936


@pytest.mark.parametrize("depth", DEPTHS)
def test_norm_layers_are_named_as_published(depth: int) -> None:
    with torch.device("meta"):
        network, peer = ours(f"bcos_resnet{depth}"), official("batch-uncentred", "no-bias", depth=depth)
    assert shapes(network) == shapes(peer)


def test_the_deepest_network_has_the_published_names_though_no_published_configuration() -> None:
    with torch.device("meta"):
        assert shapes(ours("bcos_resnet110")) == shapes(built_by_peer(cifar10_resnet110))


def test_tensors_of_the_resnet_56_without_norm_are_those_of_its_checkpoint() -> None:
    expected = {"conv1.linear.weight": (16, 6, 3, 3), "fc.linear.weight": (10, 64, 1, 1)}
    for stage, width, before in ((1, 16, 16), (2, 32, 16), (3, 64, 32)):
        for block in range(9):
            key = f"layer{stage}.{block}"
            expected[f"{key}.conv1.linear.weight"] = (width, before if block == 0 else width, 3, 3)
            expected[f"{key}.conv2.linear.weight"] = (width, width, 3, 3)
    expected["layer2.0.downsample.0.linear.weight"] = (32, 16, 1, 1)
    expected["layer3.0.downsample.0.linear.weight"] = (64, 32, 1, 1)
    assert shapes(ours("bcos_resnet56", classes=10, norm="none")) == expected


@pytest.mark.parametrize(("classes", "expected"), [(2, 0.0), (10, -math.log(9)), (1000, -math.log(999))])
def test_default_logit_bias_gives_every_class_its_share(classes: int, expected: float) -> None:
    network = ours("bcos_resnet8", classes=classes).eval()
    black = torch.zeros(1, 6, 8, 8)  # answered by zeros in every layer
    torch.testing.assert_close(network(black), torch.full((1, classes), expected))
    torch.testing.assert_close(network(black).sigmoid(), torch.full((1, classes), 1 / classes))


@pytest.mark.parametrize("bias", [0.0, -0.0, 1.5])
def test_given_logit_bias_is_kept_even_when_it_is_zero(bias: float) -> None:
    network = ours("bcos_resnet8", logit_bias=bias).eval()
    assert torch.equal(network(torch.zeros(1, 6, 8, 8)), torch.full((1, CLASSES), bias))


def plain_resnet(state: Mapping[str, Tensor], blocks: int, images: Tensor) -> Tensor:
    """A CIFAR ResNet in evaluation, from its tensors alone."""

    def normed(features: Tensor, key: str) -> Tensor:
        mean, variance, weight, bias = (
            state[f"{key}.{name}"].view(-1, 1, 1) for name in ("running_mean", "running_var", "weight", "bias")
        )
        return (features - mean) / (variance + 1e-5).sqrt() * weight + bias

    features = F.relu(normed(F.conv2d(images, state["conv1.weight"], padding=1), "bn1"))
    for stage in (1, 2, 3):
        for block in range(blocks):
            key = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            shortcut = features
            if stride == 2:
                shortcut = F.conv2d(features, state[f"{key}.downsample.0.weight"], stride=2)
                shortcut = normed(shortcut, f"{key}.downsample.1")
            residual = F.conv2d(features, state[f"{key}.conv1.weight"], stride=stride, padding=1)
            residual = F.relu(normed(residual, f"{key}.bn1"))
            residual = normed(F.conv2d(residual, state[f"{key}.conv2.weight"], padding=1), f"{key}.bn2")
            features = F.relu(residual + shortcut)
    return features.flatten(2).mean(dim=2) @ state["fc.weight"].T + state["fc.bias"]


@pytest.mark.parametrize("depth", [8, *DEPTHS])
def test_conventional_network_equals_a_plain_re_computation_from_its_tensors(depth: int) -> None:
    network = ours(f"resnet{depth}").double().eval()
    randomise(network)
    images = encoded(2, 3, 8, 12)[:, :3]
    expected = plain_resnet(network.state_dict(), (depth - 2) // 6, images)
    assert_proportionally_close(network(images), expected)


# He et al. (2016), table 6, give 0.27, 0.46, 0.66 and 0.85 million; a 1x1 projection and its norm in two shortcuts
# add 16 * 32 + 32 * 64 + 2 * (32 + 64).
@pytest.mark.parametrize(("depth", "count"), [(20, 269_722), (32, 464_154), (44, 658_586), (56, 853_018)])
def test_conventional_networks_have_the_papers_size(depth: int, count: int) -> None:
    assert parameters(ours(f"resnet{depth}", classes=10)) == count + 2752


@pytest.mark.parametrize("name", ["resnet20", "bcos_resnet20"])
def test_initial_weights_depend_on_the_generator_alone_and_leave_no_filter_out(name: str) -> None:
    first, second, third = ours(name), ours(name), ours(name)
    for network, seed in ((first, 1), (second, 1), (third, 2)):
        initialise(network, torch.Generator().manual_seed(seed))
    torch.testing.assert_close(first.state_dict(), second.state_dict(), rtol=0, atol=0)
    for key, tensor in first.state_dict().items():
        if tensor.dim() > 1:
            assert not torch.equal(tensor, third.state_dict()[key]), key


@pytest.mark.parametrize("name", ["resnet20", "bcos_resnet20"])
def test_initial_filters_have_the_deviation_of_he_et_al_by_fan_out(name: str) -> None:
    network = ours(name, classes=10)
    initialise(network, torch.Generator().manual_seed(1))
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
            # A deviation estimated from n values has a relative error of 1 / sqrt(2n); five times that.
            tolerance = 5 / math.sqrt(2 * module.weight.numel())
            assert module.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=tolerance)


def test_initial_classifier_bias_of_a_conventional_network_is_zero() -> None:
    network = ours("resnet20")
    initialise(network, torch.Generator().manual_seed(1))
    assert not network.get_parameter("fc.bias").any()
    assert network.get_parameter("fc.weight").std().item() == pytest.approx(math.sqrt(1 / 64), rel=0.2)  # 448 values


@pytest.mark.parametrize(
    ("name", "arguments", "sentence"),
    [
        ("bcos-resnet20", {}, "unknown architecture 'bcos-resnet20': did you mean 'bcos_resnet20'"),
        ("vgg", {}, "unknown architecture 'vgg': .*choose from vgg11, .*bcos_vgg11"),
        ("bcos_resnet20", {"B": 2.0}, "'bcos_resnet20' takes no argument 'B': it takes b, learn_b, max_out, norm"),
        ("bcos_resnet20", {"blocks": 4}, "takes no argument 'blocks': it takes b,"),
        ("bcos_resnet20", {"classes": 4}, "takes no argument 'classes'"),
        ("resnet20", {"max_out": 2}, "'resnet20' takes no argument 'max_out': it takes norm, norm_affine$"),
        ("bcos_resnet20", {"b": 0.5}, "b must be at least 1, got 0.5: choose"),
        ("bcos_resnet20", {"max_out": 0}, "max_out must be at least 1, got 0: choose"),
        ("bcos_resnet20", {"norm": "bnu"}, "unknown norm layer 'bnu': .*choose from all, all-uncentred, batch,"),
        ("resnet20", {"norm": "Batch"}, "unknown norm layer 'Batch': did you mean 'batch'"),
        ("bcos_resnet20", {"norm_affine": "linear"}, "norm_affine"),
    ],
)
def test_what_an_architecture_does_not_take_is_refused_in_a_helpful_sentence(
    name: str, arguments: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(RequestError, match=sentence):
        build_architecture(name, in_channels=6, classes=CLASSES, arguments=arguments)
