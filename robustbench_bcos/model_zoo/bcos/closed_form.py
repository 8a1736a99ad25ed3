"""B-cos convolutions with their gradients in closed form.

With the response a to a patch of energy E (its sum of squares) and r = (E + epsilon)^(-1/2), the cosine is |a| r and
the output y is a scale of it times a. Autograd keeps every intermediate of that and differentiates each. Here
one transposed convolution propagates dy/da, and the derivative by the energy of the patch,

    dy/dE = -(dy/da - scale) a r^2 / 2,        which is -y r^2 / 2 for B = 2,

is summed over outputs first, in one map per group of channels, and then over windows. Filters that are trained get
dy/da, too. These gradients can be differentiated again where filters are trained: then autograd repeats the layer.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_bcos.core.errors import RequestError

PATCH_EPSILON = 1e-6
COSINE_EPSILON = 1e-6

Pair = tuple[int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvGeometry:
    """Everything about a B-cos convolution but its filters. Pairs are (height, width); padding is with zeros."""

    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int
    b: float
    max_out: int


def respond(features: Tensor, filters: Tensor, geometry: ConvGeometry) -> Tensor:
    """Output of a B-cos convolution, up to rounding.

    Args:
        features: of shape (image, channel, height, width).
        filters: of shape (output * max_out, channel / groups, height, width). If they need no gradient, that of the
            features cannot be differentiated again.
        geometry: of the layer.
    """
    if torch.is_grad_enabled() and (features.requires_grad or filters.requires_grad):
        outputs: Tensor = _ClosedForm.apply(features, filters, geometry)
        return outputs
    responses, _ = _convolve(features, filters, geometry)
    return _scale(responses, features, filters, geometry).mul_(responses)


def respond_linearly(features: Tensor, filters: Tensor, geometry: ConvGeometry) -> Tensor:
    """The same output, of which the scale is a constant: its gradients are dynamic weights.

    Args:
        features: as of :func:`respond`.
        filters: as of :func:`respond`.
        geometry: of the layer.
    """
    responses, _ = _convolve(features, filters, geometry)
    with torch.no_grad():
        scale = _scale(responses, features, filters, geometry)
    return scale * responses


def not_differentiable_again() -> RequestError:
    """Why a gradient in closed form, of filters that are constants, is not given with a graph of its own."""
    return RequestError(
        "a folded model was asked for gradients that can be differentiated again, which it does not have: "
        "ask the model it is folded from"
    )


class _ClosedForm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, filters: Tensor, geometry: ConvGeometry) -> Tensor:  # noqa: ANN401
        responses, winners = _convolve(features, filters, geometry)
        reciprocals = _reciprocal_norms(features, filters, geometry)
        cosines = _cosines(responses, reciprocals, geometry)
        if geometry.b == 2 and ctx.needs_input_grad[1]:
            # As below, of what nobody else writes into.
            outputs = responses * cosines
            saved = (cosines, responses)
        elif geometry.b == 2:
            # For B = 2, dy/da = 2 |cos| (stored halved), and the energy term is -y r^2 / 2: store the output itself.
            outputs = responses.mul_(cosines)
            saved = (cosines, outputs)
        else:
            shifted = cosines + COSINE_EPSILON
            scale = shifted.pow(geometry.b - 1)
            curvature = cosines.div_(shifted).mul_(scale).mul_(geometry.b - 1)
            outputs = scale * responses
            saved = (scale.add_(curvature), curvature.mul_(responses))
        ctx.geometry = geometry
        ctx.save_for_backward(features, filters, reciprocals, winners, *saved)
        return outputs

    @staticmethod
    def backward(ctx: Any, gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # noqa: ANN401
        if torch.is_grad_enabled() and ctx.needs_input_grad[1]:
            return (*_by_autograd(ctx, gradients), None)
        if torch.is_grad_enabled():
            raise not_differentiable_again()
        geometry: ConvGeometry = ctx.geometry
        features, filters, reciprocals, winners, slopes, energy_terms = ctx.saved_tensors
        by_responses = gradients * slopes
        energies: Tensor | None = None
        if ctx.needs_input_grad[0]:
            by_energies = by_responses if geometry.b == 2 and ctx.needs_input_grad[1] else gradients
            energies = _sums(by_energies * energy_terms, geometry.groups).mul_(reciprocals).mul_(reciprocals)
        gradients = by_responses
        if winners is not None:
            competitors = gradients.new_zeros(*winners.shape[:2], geometry.max_out, *winners.shape[3:])
            gradients = competitors.scatter_(2, winners, gradients.unsqueeze(2)).flatten(1, 2)
        input_gradients, filter_gradients, _ = torch.ops.aten.convolution_backward(
            gradients,
            features,
            filters * 2 if geometry.b == 2 else filters,
            None,
            geometry.stride,
            geometry.padding,
            geometry.dilation,
            False,
            (0, 0),
            geometry.groups,
            (energies is not None, ctx.needs_input_grad[1], False),
        )
        if geometry.b == 2 and filter_gradients is not None:
            filter_gradients.mul_(2)
        if energies is None:
            return None, filter_gradients, None
        rows, columns = _windows(features, filters, geometry)
        spread = rows.T @ (energies @ columns)
        if geometry.groups == 1:
            input_gradients.addcmul_(features, spread, value=-1)
        else:
            grouped = (geometry.groups, -1)
            input_gradients.unflatten(1, grouped).addcmul_(
                features.unflatten(1, grouped), spread.unsqueeze(2), value=-1
            )
        return input_gradients, filter_gradients, None


def _by_autograd(ctx: Any, gradients: Tensor) -> tuple[Tensor | None, Tensor]:  # noqa: ANN401
    """The gradients by features and filters, with a graph of their own."""
    features, filters, *_ = ctx.saved_tensors
    asked = [features, filters] if ctx.needs_input_grad[0] else [filters]
    outputs = _respond(features, filters, ctx.geometry)
    *others, by_filters = torch.autograd.grad(outputs, asked, gradients, create_graph=True)
    return next(iter(others), None), by_filters


def _respond(features: Tensor, filters: Tensor, geometry: ConvGeometry) -> Tensor:
    """The output once more, of functions that autograd knows."""
    responses, _ = _convolve(features, filters, geometry)
    norms = (_energies(features, filters, geometry) + PATCH_EPSILON).sqrt()
    cosines = (responses.unflatten(1, (geometry.groups, -1)) / norms.unsqueeze(2)).flatten(1, 2).abs()
    scale: Tensor = cosines if geometry.b == 2 else (cosines + COSINE_EPSILON) ** (geometry.b - 1)
    return scale * responses


def _convolve(features: Tensor, filters: Tensor, geometry: ConvGeometry) -> tuple[Tensor, Tensor | None]:
    """Responses after MaxOut, and the index of the winning filter of each output (``None`` without MaxOut)."""
    responses = F.conv2d(features, filters, None, geometry.stride, geometry.padding, geometry.dilation, geometry.groups)
    if geometry.max_out == 1:
        return responses, None
    values, winners = responses.unflatten(1, (-1, geometry.max_out)).max(dim=2, keepdim=True)
    return values.squeeze(2), winners


def _cosines(responses: Tensor, reciprocals: Tensor, geometry: ConvGeometry) -> Tensor:
    """|cos| between each patch and each filter. Overwrites nothing that is passed in."""
    cosines = responses.abs()
    if geometry.groups == 1:
        return cosines.mul_(reciprocals)
    cosines.unflatten(1, (geometry.groups, -1)).mul_(reciprocals.unsqueeze(2))
    return cosines


def _scale(responses: Tensor, features: Tensor, filters: Tensor, geometry: ConvGeometry) -> Tensor:
    """|cos|^(B-1). Not to be differentiated."""
    cosines = _cosines(responses, _reciprocal_norms(features, filters, geometry), geometry)
    return cosines if geometry.b == 2 else cosines.add_(COSINE_EPSILON).pow_(geometry.b - 1)


def _reciprocal_norms(features: Tensor, filters: Tensor, geometry: ConvGeometry) -> Tensor:
    """1 / norm of the patch under each output position: (image, group, height, width)."""
    return _energies(features, filters, geometry).add_(PATCH_EPSILON).rsqrt_()


def _energies(features: Tensor, filters: Tensor, geometry: ConvGeometry) -> Tensor:
    """Sum of squares of the patch under each output position: (image, group, height, width)."""
    rows, columns = _windows(features, filters, geometry)
    return rows @ (_sums(features.square(), geometry.groups) @ columns.T)


def _sums(maps: Tensor, groups: int) -> Tensor:
    """Sum over the channels of each group, as a matrix product: up to three times faster in channels-last order."""
    grouped = maps.flatten(2).unflatten(1, (groups, -1))
    sums: Tensor = maps.new_ones(grouped.shape[2]) @ grouped
    return sums.view(*sums.shape[:2], *maps.shape[2:])


def _windows(features: Tensor, filters: Tensor, geometry: ConvGeometry) -> tuple[Tensor, Tensor]:
    """Matrices that sum over windows: multiply by the first from the left, by the transposed second from the right."""
    return _window_matrices(features.shape[2:], filters.shape[2:], geometry, features.dtype, features.device)


@lru_cache(maxsize=256)
def _window_matrices(
    sizes: torch.Size, kernel: torch.Size, geometry: ConvGeometry, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """1 where a window (row) covers a pixel (column). Faster than pooling; the transpose gives the gradient."""
    matrices = []
    for axis, (size, length) in enumerate(zip(sizes, kernel, strict=True)):
        stride, padding, dilation = geometry.stride[axis], geometry.padding[axis], geometry.dilation[axis]
        count = (size + 2 * padding - dilation * (length - 1) - 1) // stride + 1
        first = torch.arange(count, device=device)[:, None] * stride - padding
        steps = torch.arange(size, device=device) - first
        covered = (steps >= 0) & (steps < dilation * length) & (steps % dilation == 0)
        matrices.append(covered.to(dtype))
    return matrices[0], matrices[1]


def geometry_of(layer: nn.Conv2d, *, b: float, max_out: int) -> ConvGeometry | None:
    """The geometry of a layer whose gradient has a closed form here; ``None`` for B = 1 and for unusual padding."""
    if b == 1 or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        return None
    stride, padding, dilation = cast(tuple[Pair, Pair, Pair], (layer.stride, layer.padding, layer.dilation))
    return ConvGeometry(stride=stride, padding=padding, dilation=dilation, groups=layer.groups, b=b, max_out=max_out)
