"""Contribution maps as functions of the image that can be differentiated, which is a second derivative of the logits.

Three things are in its way. What an explanation holds constant changes with the image all the same: the scales of
dynamic layers stay in the graph (:class:`~robustbench_bcos.model_zoo.bcos.explanation_mode.Gates`). The second
derivative of a ReLU is 0 wherever it exists, so that maps are constant between kinks; softplus takes its place, as in
Ghorbani et al. (2019) and Dombrowski et al. (2019). And fused attention has no second derivative on CPUs (torch 2.14);
torch's plain one has. Folded and compiled copies of a network have none either, and are not asked.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.core.types import Flags, Images, Logits, Maps

SHARPNESS = 15.0
"""Beta of the softplus that takes the place of a ReLU; it is off by ln(2) / beta at most."""

RECTIFIERS = frozenset({F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_})


class Attached(NamedTuple):
    """What a network says of images, in the graph of the images."""

    logits: Logits
    maps: Maps
    """Contributions to the largest logit of each image."""


class Softened(TorchFunctionMode):
    """Rectifiers are softplus inside the ``with``, whichever way they are written; no module is changed."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        if func in RECTIFIERS:
            return F.softplus(args[0], beta=SHARPNESS)
        return func(*args, **(kwargs or {}))


class _Noticed(TorchFunctionMode):
    """Notes whether a rectifier is called."""

    def __init__(self) -> None:
        super().__init__()
        self.rectifiers = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        self.rectifiers = self.rectifiers or func in RECTIFIERS
        return func(*args, **(kwargs or {}))


def has_rectifiers(model: nn.Module, images: Images) -> bool:
    """Whether a model calls a rectifier on the way from these images to logits."""
    noticed = _Noticed()
    with torch.no_grad(), noticed:
        model(images)
    return noticed.rectifiers


def is_curved(model: nn.Module, images: Images, rng: PerImageRng) -> Flags:
    """Whether the largest logit has a second derivative other than 0 at each image, along a random direction."""
    leaf = images.detach().clone().requires_grad_()
    directions = torch.stack([torch.randn(images.shape[1:], generator=source) for source in rng(0)]).to(images)
    with torch.enable_grad(), twice_differentiable():
        (slope,) = torch.autograd.grad(largest_of(model(leaf)).sum(), leaf, create_graph=True, materialize_grads=True)
        if not slope.requires_grad:
            return torch.zeros(len(images), dtype=torch.bool, device=images.device)
        (bend,) = torch.autograd.grad((slope * directions).sum(), leaf, materialize_grads=True)
    return (bend != 0).flatten(1).any(dim=1)


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Attention whose gradient has a gradient."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


def gradient_of_largest(network: nn.Module, encoded: Images) -> tuple[Logits, Images]:
    """Logits, and the gradient of the largest, in the graph of ``encoded`` where gradients are on.

    Args:
        network: frozen.
        encoded: requires a gradient.
    """
    logits = network(encoded)
    (weights,) = torch.autograd.grad(
        largest_of(logits).sum(), encoded, create_graph=torch.is_grad_enabled(), materialize_grads=True
    )
    return logits, weights


def gradient_times_input(network: nn.Module, encoded: Images) -> Attached:
    """That gradient times the encoded image."""
    logits, weights = gradient_of_largest(network, encoded)
    return Attached(logits, (weights * encoded).sum(dim=1))


def largest_of(logits: Logits) -> Tensor:
    """The largest logit of each image, by its position: of equal ones the first."""
    return logits.gather(1, logits.detach().argmax(dim=1, keepdim=True)).squeeze(1)
