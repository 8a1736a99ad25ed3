"""B-cos convolutions with filters that never change, and their input gradients in closed form.

With the response a to a patch of energy E (its sum of squares) and r = (E + epsilon)^(-1/2), the cosine is |a| r and
the output y is a scale of it times a. Autograd keeps every intermediate of that and walks back through each. Here one
convolution takes back the slopes dy/da, and all that an output owes to the energy of its patch,

    dy/dE = -(dy/da - scale) a r^2 / 2,        which is -y r^2 / 2 for B = 2,

is summed over outputs first, in one map per group of channels, and then over windows. Nothing of this can be
differentiated again.
"""

from functools import lru_cache
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_bcos.core.errors import RequestError

PATCH_EPSILON = 1e-6
COSINE_EPSILON = 1e-6

Pair = tuple[int, int]


class ConvGeometry(NamedTuple):
    """What a layer is apart from its filters. Pairs are of height and width; what is padded is black."""

    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int
    b: float
    max_out: int


def respond(features: Tensor, filters: Tensor, form: ConvGeometry) -> Tensor:
    """Responses of a B-cos convolution, up to rounding, with one gradient: that of the features, to be taken once.

    Args:
        features: of shape (image, channel, height, width).
        filters: of norm 1, of shape (output * max_out, channel / groups, height, width); no gradient reaches them.
        form: the layer's.
    """
    if torch.is_grad_enabled() and features.requires_grad:
        outputs: Tensor = _ClosedForm.apply(features, filters, form)
        return outputs
    responses, _ = _convolve(features, filters, form)
    scale = _cosines(responses, _reciprocal_norms(features, filters, form), form)
    if form.b != 2:
        scale = scale.add_(COSINE_EPSILON).pow_(form.b - 1)
    return scale.mul_(responses)


class _ClosedForm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, filters: Tensor, form: ConvGeometry) -> Tensor:  # noqa: ANN401
        responses, chosen = _convolve(features, filters, form)
        reciprocals = _reciprocal_norms(features, filters, form)
        cosines = _cosines(responses, reciprocals, form)
        if form.b == 2:
            # Half the slopes, and what the energies take from the outputs is the outputs.
            outputs = responses.mul_(cosines)
            kept = (cosines, outputs)
        else:
            shifted = cosines + COSINE_EPSILON
            scale = shifted.pow(form.b - 1)
            bends = cosines.div_(shifted).mul_(scale).mul_(form.b - 1)
            outputs = scale * responses
            kept = (scale.add_(bends), bends.mul_(responses))
        ctx.form = form
        ctx.save_for_backward(features, filters, reciprocals, chosen, *kept)
        return outputs

    @staticmethod
    def backward(ctx: Any, gradients: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        if torch.is_grad_enabled():
            raise RequestError(
                "a folded model was asked for gradients that can be differentiated again, which it does not have: "
                "ask the model it is folded from"
            )
        form: ConvGeometry = ctx.form
        features, filters, reciprocals, chosen, slopes, taken = ctx.saved_tensors
        energies = _sums(gradients * taken, form.groups).mul_(reciprocals).mul_(reciprocals)
        gradients = gradients * slopes
        if chosen is not None:
            every = gradients.new_zeros(*chosen.shape[:2], form.max_out, *chosen.shape[3:])
            gradients = every.scatter_(2, chosen, gradients.unsqueeze(2)).flatten(1, 2)
        passed = torch.ops.aten.convolution_backward(
            gradients,
            features,
            filters * 2 if form.b == 2 else filters,
            None,
            form.stride,
            form.padding,
            form.dilation,
            False,
            (0, 0),
            form.groups,
            (True, False, False),
        )[0]
        rows, columns = _windows(features, filters, form)
        spread = rows.T @ (energies @ columns)
        if form.groups == 1:
            passed.addcmul_(features, spread, value=-1)
        else:
            grouped = (form.groups, -1)
            passed.unflatten(1, grouped).addcmul_(features.unflatten(1, grouped), spread.unsqueeze(2), value=-1)
        return passed, None, None


def _convolve(features: Tensor, filters: Tensor, form: ConvGeometry) -> tuple[Tensor, Tensor | None]:
    """Responses of the filters that won, and which of the competitors those were."""
    responses = F.conv2d(features, filters, None, form.stride, form.padding, form.dilation, form.groups)
    if form.max_out == 1:
        return responses, None
    values, chosen = responses.unflatten(1, (-1, form.max_out)).max(dim=2, keepdim=True)
    return values.squeeze(2), chosen


def _cosines(responses: Tensor, reciprocals: Tensor, form: ConvGeometry) -> Tensor:
    """Their sizes."""
    cosines = responses.abs()
    if form.groups == 1:
        return cosines.mul_(reciprocals)
    cosines.unflatten(1, (form.groups, -1)).mul_(reciprocals.unsqueeze(2))
    return cosines


def _reciprocal_norms(features: Tensor, filters: Tensor, form: ConvGeometry) -> Tensor:
    """Of the patch under each output position: (image, group, height, width)."""
    rows, columns = _windows(features, filters, form)
    energies = rows @ (_sums(features.square(), form.groups) @ columns.T)
    return energies.add_(PATCH_EPSILON).rsqrt_()


def _sums(maps: Tensor, groups: int) -> Tensor:
    """Over the channels of each group, as a product: in channels-last order a sum takes up to three times as long."""
    grouped = maps.flatten(2).unflatten(1, (groups, -1))
    sums: Tensor = maps.new_ones(grouped.shape[2]) @ grouped
    return sums.view(*sums.shape[:2], *maps.shape[2:])


def _windows(features: Tensor, filters: Tensor, form: ConvGeometry) -> tuple[Tensor, Tensor]:
    """What sums windows along the vertical axis, from the left, and along the horizontal one, transposed."""
    return _window_matrices(features.shape[2:], filters.shape[2:], form, features.dtype, features.device)


@lru_cache(maxsize=256)
def _window_matrices(
    sizes: torch.Size, kernel: torch.Size, form: ConvGeometry, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """1 where a window (row) covers a pixel (column): faster than a pool, and the transpose is the way back."""
    matrices = []
    for axis, (size, length) in enumerate(zip(sizes, kernel, strict=True)):
        stride, padding, dilation = form.stride[axis], form.padding[axis], form.dilation[axis]
        count = (size + 2 * padding - dilation * (length - 1) - 1) // stride + 1
        first = torch.arange(count, device=device)[:, None] * stride - padding
        steps = torch.arange(size, device=device) - first
        covered = (steps >= 0) & (steps < dilation * length) & (steps % dilation == 0)
        matrices.append(covered.to(dtype))
    return matrices[0], matrices[1]


def geometry_of(layer: nn.Conv2d, *, b: float, max_out: int) -> ConvGeometry | None:
    """The form of a layer that has one: a B-cos layer pads with zeros, as much on either side."""
    if b == 1 or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        return None
    stride, padding, dilation = cast(tuple[Pair, Pair, Pair], (layer.stride, layer.padding, layer.dilation))
    return ConvGeometry(stride, padding, dilation, layer.groups, b, max_out)
