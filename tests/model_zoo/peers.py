"""Networks of other packages, and what ours must have in common with them."""

import copy
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from bcos.experiments.ImageNet.bcos_final.experiment_parameters import CONFIGS
from bcos.modules import BcosConv2d
from torch import Tensor, nn

from robustbench_bcos.explanations.completeness import additive_constants
from robustbench_bcos.explanations.explanation import explain
from robustbench_bcos.model_zoo.architectures import BCOS_PREFIX, build_architecture
from robustbench_bcos.model_zoo.bcos.folding import fold
from robustbench_bcos.model_zoo.bcos.norms import BatchNormUncentred2d
from robustbench_bcos.model_zoo.checkpoints.infer import infer_arguments

CLASSES = 7

NO_LOGIT_BIAS = 1e-300
"""Passes for none, where the peer takes 0.0 for unset; beside a bias of -1.8 an error in small logits would hide."""

# float64: all epsilons of layers and norms (1e-5 and less) are visible at this tolerance.
CLOSE = {"rtol": 1e-7, "atol": 1e-8}


def official(builder: Any, *, classes: int = CLASSES, max_out: int = 1, **arguments: Any) -> Any:
    """What a builder of the official package makes of the published settings for ImageNet."""
    settings = copy.deepcopy(CONFIGS["resnet_50"]["model"])
    settings["bcos_args"] |= {"max_out": max_out}
    settings["args"] |= {"num_classes": classes, "logit_bias": NO_LOGIT_BIAS, **arguments}
    return builder(**settings["args"], conv_layer=partial(BcosConv2d, **settings["bcos_args"]))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def encoded(*shape: int) -> Tensor:
    images = torch.rand(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return torch.cat([images, 1 - images], dim=1)


def ours(name: str, *, classes: int = CLASSES, **arguments: Any) -> nn.Module:
    channels = 6 if name.startswith(BCOS_PREFIX) else 3
    return build_architecture(name, in_channels=channels, classes=classes, arguments=arguments)


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def randomise(network: nn.Module, inputs: Tensor) -> None:
    """Filters of one size, weights of norms of both signs, biases; and the running statistics of ``inputs``.

    With these, signals neither die nor grow on their way through a deep network.
    """
    for seed, (name, tensor) in enumerate(network.state_dict().items()):
        if tensor.is_floating_point() and not name.endswith(("running_mean", "running_var")):
            fan_in = max(1, tensor.numel() // tensor.shape[0])
            tensor.copy_(normal(*tensor.shape, seed=seed) / fan_in**0.5)
    network.train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
        if isinstance(module, nn.Dropout):
            module.eval()
    with torch.no_grad():
        network(inputs)
    network.eval()


def outcomes(network: Any, inputs: Tensor) -> Iterator[Tensor]:
    """Logits, and the gradient of a mixture of them."""
    leaf = inputs.clone().requires_grad_()
    logits = network(leaf)
    yield logits.detach()
    yield from torch.autograd.grad((logits * normal(*logits.shape, seed=5)).sum(), leaf)


def dynamic_weights_of_peer(network: Any, inputs: Tensor, targets: Tensor) -> Tensor:
    leaf = inputs.clone().requires_grad_()
    with network.explanation_mode():
        logits = network(leaf)
    (weights,) = torch.autograd.grad(logits[torch.arange(len(targets)), targets].sum(), leaf)
    return weights


def assert_proportionally_close(actual: Tensor, expected: Tensor) -> None:
    size = expected.abs().max()
    assert size > 1e-12, "nothing to compare with"
    torch.testing.assert_close(actual / size, expected / size, **CLOSE)


def assert_same_function(network: nn.Module, peer: Any, inputs: Tensor) -> None:
    """Logits and gradients, and dynamic weights of B-cos networks."""
    for actual, expected in zip(outcomes(network, inputs), outcomes(peer, inputs), strict=True):
        assert_proportionally_close(actual, expected)
    if hasattr(peer, "explanation_mode"):
        targets = torch.arange(len(inputs)) + 1
        weights = dynamic_weights_of_peer(peer, inputs, targets)
        assert_proportionally_close(explain(network, inputs, targets).weights, weights)


def assert_same_network(network: nn.Module, peer: Any, inputs: Tensor) -> None:
    """Strict exchange of states both ways, and the same function with them."""
    network.double()
    peer.double().eval()
    randomise(network, inputs)
    peer.load_state_dict(network.state_dict())
    network.load_state_dict(peer.state_dict())
    assert_same_function(network, peer, inputs)


def assert_folds(network: nn.Module, inputs: Tensor, *, norms_left: int) -> None:
    """The folded twin is the same function, and so many uncentred batch norms stay in it."""
    network.double()
    randomise(network, inputs)
    network.requires_grad_(False)
    folded = fold(network)
    assert sum(isinstance(module, BatchNormUncentred2d) for module in folded.modules()) == norms_left
    for actual, expected in zip(outcomes(folded, inputs), outcomes(network, inputs), strict=True):
        assert_proportionally_close(actual, expected)
    assert_proportionally_close(explain(folded, inputs).weights, explain(network, inputs).weights)


def assert_contributions_sum_to_the_logit(network: nn.Module, inputs: Tensor) -> None:
    """Of a network whose logit layer has no bias to speak of."""
    network.double()
    randomise(network, inputs)
    assert additive_constants(network) == []
    targets = torch.arange(len(inputs)) + 1
    explained = explain(network.requires_grad_(False), inputs, targets)
    logits = explained.logits.gather(1, targets[:, None])[:, 0]
    assert_proportionally_close(explained.contributions.sum(dim=(1, 2)), logits)


def assert_arguments_are_read_off(name: str, given: dict[str, Any]) -> None:
    """A state of the architecture, made with what is given, gives it back."""
    with torch.device("meta"):
        tensors = ours(name, classes=CLASSES, **given).state_dict()
    inferred = infer_arguments(name, tensors, {})
    assert inferred == {"in_channels": 6 if name.startswith(BCOS_PREFIX) else 3, "classes": CLASSES, **given}
