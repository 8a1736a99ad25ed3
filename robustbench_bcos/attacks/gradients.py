"""Gradients an attack can follow, however confident the model is."""

from typing import NamedTuple

from robustbench_bcos.attacks.loss import Loss
from robustbench_bcos.core.deferred import torch
from robustbench_bcos.core.types import Flags, Goals, Images, Logits, Tensor


class UsableGradient(NamedTuple):
    """A gradient that a step can follow."""

    gradient: Images
    """0 where it is NaN or infinite."""
    degenerate: Flags
    """Whether it was 0 everywhere, or NaN or infinite somewhere."""


def logit_gradient(loss: Loss, logits: Logits, labels: Goals) -> Logits:
    """Derivative of each image's loss by its logits, up to a positive factor per image.

    Computed in the logits' precision, as peers do, so that runs can be compared bit by bit. Where it falls below that
    precision's resolution, parts of it have been rounded away: there it is taken again in float64, and rescaled to 1
    before it can underflow on its way through the network. It is exactly 0 only where float64 says so too.

    The loss is always shown the whole batch, because it may know something of each image, such as a target.
    """
    slope = _derivative(loss, logits, labels)
    faint = slope.abs().amax(dim=1) < torch.finfo(slope.dtype).eps
    if _known_to_be_none(faint):
        return slope
    exact = _derivative(loss, logits.double(), labels)
    largest = exact.abs().amax(dim=1, keepdim=True)
    return torch.where(faint[:, None], (exact / torch.where(largest > 0, largest, 1)).to(slope.dtype), slope)


def image_gradient(logits: Logits, images: Images, slope: Logits, *, keep: bool = False) -> Images:
    """Vector-Jacobian product: backpropagate ``slope`` from logits to images; ``keep`` retains the graph for another.

    Zero where the network gives no gradient at all: the caller records that as a gradient of 0.
    """
    if not logits.requires_grad:
        return torch.zeros_like(images)
    # The same to the last bit as with the slope as an argument, of which torch's first imports SymPy: half a second.
    # It is asked for with gradients off, too: they are of a graph that is there.
    with torch.enable_grad():
        total = (logits * slope).sum()
    (gradient,) = torch.autograd.grad(total, images, materialize_grads=True, retain_graph=keep)
    return gradient


def usable_gradient(loss: Loss, logits: Logits, images: Images, labels: Goals) -> UsableGradient:
    """The gradient of the loss by each image, with entries that are not finite set to 0."""
    return usable(image_gradient(logits, images, logit_gradient(loss, logits, labels)))


def usable(gradient: Images) -> UsableGradient:
    """A gradient with entries that are not finite set to 0."""
    # The largest entry is NaN or infinite where any entry is, and 0 where all are.
    largest = gradient.flatten(1).abs().amax(dim=1)
    finite = largest.isfinite()
    if not _known_to_be_none(~finite):
        gradient = torch.where(gradient.isfinite(), gradient, 0)
    return UsableGradient(gradient, ~finite | (largest == 0))


def _known_to_be_none(flags: Flags) -> bool:
    """Whether nothing is marked, as far as that can be told without waiting for a GPU to answer."""
    return flags.device.type == "cpu" and not flags.any()


def _derivative(loss: Loss, logits: Logits, labels: Goals) -> Tensor:
    leaf = logits.detach().requires_grad_()
    (derivative,) = torch.autograd.grad(loss(leaf, labels).sum(), leaf)
    return derivative
