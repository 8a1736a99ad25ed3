"""Gradients of many logits of an image in one backward pass.

torch batches what a backward pass does to many gradients, but takes those of convolutions one by one. Where weights are
constants the gradient of a convolution is a transposed one, of which torch does many together. Images in channels-last
order make them up to five times as fast on CPUs.
"""

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

Pair = tuple[int, int]

TOGETHER = 64
"""Gradients of images of 224x224 pixels that are held together, so that memory stays bounded."""


class ConvolutionsTogether(TorchFunctionMode):
    """Convolutions of a forward pass in this context have gradients that can be taken together."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        if func is F.conv2d and not kwargs and len(args) == 7 and not isinstance(args[4], str):
            features, weight, bias, *settings = args
            if not weight.requires_grad and (bias is None or not bias.requires_grad):
                stride, padding, dilation, groups = (_pair(setting) for setting in settings)
                return _Convolution.apply(features, weight, bias, stride, padding, dilation, groups[0])
        return func(*args, **(kwargs or {}))


class _Convolution(torch.autograd.Function):
    # Not with setup_context, for which torch looks up the signature at each call.
    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor | None, *settings: Any) -> Tensor:  # noqa: ANN401
        ctx.settings, ctx.size = settings, features.shape[2:]
        ctx.save_for_backward(weight)
        return F.conv2d(features, weight, bias, *settings)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:  # noqa: ANN401
        (weight,), (gradient,) = ctx.saved_tensors, gradients
        stride, padding, dilation, groups = ctx.settings
        # Rows and columns that no window of the forward pass began at.
        left = [
            ctx.size[axis]
            - ((gradient.shape[2 + axis] - 1) * stride[axis] - 2 * padding[axis] + dilation[axis] * (kernel - 1) + 1)
            for axis, kernel in enumerate(weight.shape[2:])
        ]
        # Channels last, like the forward pass, and not by contiguous(memory_format=...), which vmap has not.
        gradient = gradient.movedim(1, -1).contiguous().movedim(-1, 1)
        back = F.conv_transpose2d(gradient, weight, None, stride, padding, left, groups, dilation)
        return back, None, None, None, None, None, None


def gradients_together(logits: Tensor, leaf: Tensor) -> Tensor:
    """Of several logits of each image, whose graph was made in the context above.

    Args:
        logits: (image, target).
        leaf: (image, channel, height, width).

    Returns:
        (image, target, channel, height, width).

    Raises:
        RuntimeError: an operation of the network cannot be batched.
    """
    images, targets = logits.shape
    chosen = torch.eye(targets, dtype=logits.dtype, device=logits.device)[:, None].expand(-1, images, -1)
    room = TOGETHER * 224 * 224 // (images * leaf.shape[2] * leaf.shape[3])
    with warnings.catch_warnings():
        # torch says of what it takes one by one that this is slow.
        warnings.filterwarnings("ignore", message=".*batching rule")
        parts = [
            torch.vmap(lambda one: torch.autograd.grad(logits, leaf, one, retain_graph=True)[0])(part)
            for part in chosen.split(max(1, room))
        ]
    return torch.cat(parts).transpose(0, 1)


def _pair(value: Any) -> Pair:  # noqa: ANN401
    return (value, value) if isinstance(value, int) else tuple(value)
