"""What an attack ascends: one number per image, the larger the nearer to success."""

from collections.abc import Callable, Sequence

from robustbench_bcos.attacks import LOSSES
from robustbench_bcos.core.deferred import torch
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.types import Labels, Logits, PerImage, Tensor

Loss = Callable[[Logits, Labels], PerImage]
"""From logits and labels."""


def resolve_loss(loss: "Loss | str") -> Loss:
    """The loss of that name, or the one that is given.

    Raises:
        RequestError: no such loss.
    """
    return LOSSES[loss] if isinstance(loss, str) else loss


def loss_name(loss: "Loss | str") -> str:
    """The name under which a loss is registered.

    Raises:
        RequestError: it is not registered, so that no row could name it.
    """
    if isinstance(loss, str):
        return loss
    for name in LOSSES:
        if LOSSES[name] is loss:
            return name
    raise RequestError(f"loss {loss!r} has no name: register it with LOSSES.registered(NAME)")


def per_image(values: Tensor, images: Sequence[object] | Tensor) -> PerImage:
    """What a loss gives, where it is one number per image.

    Raises:
        RequestError: it averages over the batch, say.
    """
    if values.shape != (len(images),):
        raise RequestError(
            f"the loss gives shape {tuple(values.shape)} for {len(images)} images and must give one number for each: "
            'use reduction="none"'
        )
    return values


def other_logits(logits: Logits, labels: Labels) -> Tensor:
    """Logits with the labels' own set to minus infinity."""
    return logits.scatter(1, labels[:, None], -torch.inf)
