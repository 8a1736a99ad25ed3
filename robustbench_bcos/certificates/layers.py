"""What each layer makes of a bound.

A function here is registered for exactly one class, because a subclass may compute something else, and prepares what
depends on the weights alone. What it cannot bound it refuses as the end of a sentence.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_bcos.certificates.bcos_map import BcosMap
from robustbench_bcos.certificates.bound import SLACK, Bound, LinearMap, Rows
from robustbench_bcos.certificates.operators import convolution_norm, overlaps, spectral_norm
from robustbench_bcos.model_zoo.architectures.layers import PointwiseLinear, PooledClassMaps, PooledLinear
from robustbench_bcos.model_zoo.bcos.closed_form import PATCH_EPSILON
from robustbench_bcos.model_zoo.bcos.layers import (
    BcosConv2d,
    BcosLinear,
    LogitLayer,
    UnitConv2d,
    UnitLinear,
    unit_rows,
)
from robustbench_bcos.model_zoo.bcos.linear_closed_form import LINEAR_EPSILON
from robustbench_bcos.model_zoo.bcos.norms import AllNorm2d, AllNormUncentred2d, BatchNormUncentred2d
from robustbench_bcos.model_zoo.encodings import AddInverse, NoEncoding, Normalize

Transform = Callable[[Bound], Bound]
M = TypeVar("M", bound=nn.Module)


class NoRule(Exception):
    """What is asked for cannot be bounded; the message says why, as the end of a sentence."""


RULES: dict[type[nn.Module], Callable[[Any], Transform]] = {}
"""For each class of layers, what makes the transform of one of them."""


def bounds(*kinds: type[M]) -> Callable[[Callable[[M], Transform]], Callable[[M], Transform]]:
    """Register what makes the transform of layers of these classes."""

    def register(make: Callable[[M], Transform]) -> Callable[[M], Transform]:
        for kind in kinds:
            RULES[kind] = make
        return make

    return register


def transform_of(layer: nn.Module) -> Transform:
    """What a layer makes of a bound.

    Raises:
        NoRule: nothing is known of such a layer.
    """
    if type(layer) not in RULES:
        raise NoRule(f"{type(layer).__name__} has no bound")
    if layer._forward_hooks or layer._forward_pre_hooks or "forward" in layer.__dict__:
        raise NoRule(f"{type(layer).__name__} with a hook has no bound")
    kinds = {parameter.dtype for parameter in layer.parameters()} - {torch.float32, torch.float64}
    if kinds:
        raise NoRule(f"its weights are {kinds.pop()} and not float32")
    return RULES[type(layer)](layer)


# Encodings


@bounds(nn.Identity, NoEncoding, nn.Dropout, nn.Dropout2d)
def _unchanged(layer: nn.Module) -> Transform:
    if layer.training and not isinstance(layer, nn.Identity | NoEncoding):
        raise NoRule("it is in training mode")
    return lambda bound: bound


@bounds(AddInverse)
def _add_inverse(layer: AddInverse) -> Transform:
    def transform(bound: Bound) -> Bound:
        ones = torch.cat([torch.zeros_like(bound.centre), torch.ones_like(bound.centre)], dim=-3)
        return LinearMap(
            apply=lambda images: torch.cat([images, -images], dim=-3),
            absolute=lambda images: torch.cat([images, images], dim=-3),
            offset=ones,
            offset_magnitude=ones,
            row_norms=1.0,
            row_sums=1.0,
            norm=math.sqrt(2),
            operations=1,
        )(bound)

    return transform


@bounds(Normalize)
def _normalize(layer: Normalize) -> Transform:
    def transform(bound: Bound) -> Bound:
        channels = bound.shape[1]
        mean, std = _exact(layer.mean)[:channels], _exact(layer.std)[:channels]
        return scaled(1 / std, -mean / std, mean / std, operations=4)(bound)

    return transform


# Linear layers


@bounds(nn.Linear)
def _linear(layer: nn.Linear) -> Transform:
    return classifier(_exact(layer.weight), layer.bias)


@bounds(UnitLinear)
def _unit_linear(layer: UnitLinear) -> Transform:
    return classifier(_unit_weight(layer), None)


@bounds(PooledLinear)
def _pooled_linear(layer: PooledLinear) -> Transform:
    classify = classifier(_exact(layer.weight), layer.bias)
    return lambda bound: classify(mean_over_positions(bound))


@bounds(PointwiseLinear)
def _pointwise(layer: PointwiseLinear) -> Transform:
    return convolution(_exact(layer.weight)[:, :, None, None], layer.bias)


@bounds(nn.Conv2d)
def _conv(layer: nn.Conv2d) -> Transform:
    return convolution(_exact(layer.weight), layer.bias, layer)


@bounds(UnitConv2d)
def _unit_conv(layer: UnitConv2d) -> Transform:
    return convolution(_unit_weight(layer), None, layer)


@bounds(nn.BatchNorm2d, nn.BatchNorm1d, BatchNormUncentred2d, AllNormUncentred2d, AllNorm2d)
def _batch_norm(layer: nn.modules.batchnorm._BatchNorm) -> Transform:
    if layer.training or layer.running_var is None or layer.running_mean is None:
        raise NoRule("its statistics are those of the batch")
    scale = (_exact(layer.running_var) + layer.eps).rsqrt()
    if layer.weight is not None:
        scale = scale * _exact(layer.weight)
    shift, size = torch.zeros_like(scale), torch.zeros_like(scale)
    if layer.bias is not None:
        shift, size = shift + _exact(layer.bias), size + _exact(layer.bias).abs()
    if not isinstance(layer, BatchNormUncentred2d):
        centred = _exact(layer.running_mean) * scale
        shift, size = shift - centred, size + centred.abs()

    def transform(bound: Bound) -> Bound:
        per_channel = [values.view(-1, *[1] * (bound.centre.dim() - 2)) for values in (scale, shift, size)]
        return scaled(*per_channel, operations=8)(bound)

    return transform


@bounds(LogitLayer)
def _logit_layer(layer: LogitLayer) -> Transform:
    return scaled(torch.tensor(1 / (layer.temperature or 1)).double(), torch.tensor(layer.bias or 0.0).double())


def linear(weight: Tensor, bias: Tensor | None) -> LinearMap:
    """Of rows of features, with a bias."""
    offset = 0.0 if bias is None else _exact(bias)
    magnitude = weight.abs()
    return LinearMap(
        apply=lambda features: features @ weight.T,
        absolute=lambda features: features @ magnitude.T,
        offset=offset,
        offset_magnitude=torch.as_tensor(offset).abs(),
        row_norms=torch.linalg.vector_norm(weight, dim=1),
        row_sums=magnitude.sum(dim=1),
        norm=spectral_norm(weight),
        operations=weight.shape[1] + 8,
    )


def classifier(weight: Tensor, bias: Tensor | None) -> Transform:
    """A linear map that may be the network's last."""
    affine = linear(weight, bias)

    def transform(bound: Bound) -> Bound:
        outputs = affine(bound)
        if outputs.centre.dim() > 2:
            return outputs
        return replace(outputs, rows=Rows(weight=weight, features=bound, rounding=affine.rounding(bound)))

    return transform


def convolution(
    weight: Tensor, bias: Tensor | None, layer: nn.Conv2d | None = None, *, norm: float | None = None
) -> LinearMap:
    """Of maps, with a bias; of stride 1 and without padding where no layer says otherwise.

    Args:
        weight: the filters.
        bias: of each output.
        layer: for its settings.
        norm: a bound of the map's norm, if one is known.
    """
    settings = _settings(layer)
    offset = 0.0 if bias is None else _exact(bias)[:, None, None]
    magnitude = weight.abs()
    return LinearMap(
        apply=lambda maps: F.conv2d(maps, weight, None, **settings),
        absolute=lambda maps: F.conv2d(maps, magnitude, None, **settings),
        offset=offset,
        offset_magnitude=torch.as_tensor(offset).abs(),
        row_norms=torch.linalg.vector_norm(weight.flatten(1), dim=1)[:, None, None],
        row_sums=magnitude.flatten(1).sum(dim=1)[:, None, None],
        norm=convolution_norm(weight, settings["stride"], settings["dilation"], settings["groups"])
        if norm is None
        else norm,
        operations=weight[0].numel() + 8,
    )


def scaled(scale: Tensor, offset: Tensor, offset_magnitude: Tensor | None = None, *, operations: int = 4) -> Transform:
    """Every value times a number, plus another; both broadcastable."""
    size = scale.abs()
    return LinearMap(
        apply=lambda values: values * scale.to(values),
        absolute=lambda values: values * size.to(values),
        offset=offset,
        offset_magnitude=(offset if offset_magnitude is None else offset_magnitude).abs(),
        row_norms=size,
        row_sums=size,
        norm=float(size.max()),
        operations=operations,
    )


def mean_over_positions(bound: Bound) -> Bound:
    """The mean of each map."""
    positions = math.prod(bound.shape[2:])
    return LinearMap(
        apply=lambda maps: maps.flatten(2).mean(dim=2),
        absolute=lambda maps: maps.flatten(2).mean(dim=2),
        row_norms=1 / math.sqrt(positions),
        row_sums=1.0,
        norm=1 / math.sqrt(positions),
        operations=positions + 2,
    )(bound)


# Activations and pools


@bounds(nn.ReLU)
def _relu(layer: nn.ReLU) -> Transform:
    return relu


def relu(bound: Bound) -> Bound:
    """No two values are farther apart than before."""
    return bound.mapped(F.relu).sharpened()


@bounds(nn.Flatten)
def _flatten(layer: nn.Flatten) -> Transform:
    if layer.start_dim < 1:
        raise NoRule("it mixes images")
    return lambda bound: bound.mapped(layer)


@bounds(nn.AvgPool2d)
def _average(layer: nn.AvgPool2d) -> Transform:
    kernel, padding = pair(layer.kernel_size), pair(layer.padding)
    stride = kernel if layer.stride is None else pair(layer.stride)
    if layer.ceil_mode or layer.divisor_override or (any(padding) and not layer.count_include_pad):
        raise NoRule("an average over windows of several sizes has no bound")

    @cache
    def of_each(channels: int, device: torch.device) -> Transform:
        same = nn.Conv2d(channels, channels, kernel, stride, padding, groups=channels, bias=False)
        one = torch.full((channels, 1, *kernel), 1 / math.prod(kernel), dtype=torch.float64, device=device)
        return convolution(one, None, same)

    return lambda bound: of_each(bound.shape[1], bound.centre.device)(bound)


@bounds(nn.MaxPool2d)
def _maximum(layer: nn.MaxPool2d) -> Transform:
    kernel, stride, dilation = pair(layer.kernel_size), pair(layer.stride), pair(layer.dilation)
    if layer.return_indices:
        raise NoRule("it returns indices")
    shared = math.sqrt(overlaps(kernel, stride, dilation))

    def transform(bound: Bound) -> Bound:
        # A value that is the largest of several windows counts once for each of them.
        return replace(bound.mapped(layer), euclidean=bound.euclidean * shared * SLACK).sharpened()

    return transform


@bounds(nn.AdaptiveAvgPool2d)
def _to_one(layer: nn.AdaptiveAvgPool2d) -> Transform:
    if layer.output_size not in (1, (1, 1)):
        raise NoRule("an average to more than one position has no bound")
    return lambda bound: mean_over_positions(bound).mapped(lambda means: means[:, :, None, None])


# B-cos layers


@bounds(BcosConv2d)
def _bcos_convolution(layer: BcosConv2d) -> Transform:
    conv = layer.linear
    settings = _settings(conv)
    ones = torch.ones(conv.groups, 1, *conv.kernel_size, dtype=torch.float64, device=conv.weight.device)

    def energies(squares: Tensor) -> Tensor:
        per_group = squares.unflatten(1, (conv.groups, -1)).sum(dim=2)
        return F.conv2d(per_group, ones, None, **settings)

    filters = _unit_weight(conv)
    shared = overlaps(conv.kernel_size, settings["stride"], settings["dilation"])
    stretch = max(spectral_norm(part) for part in filters.flatten(1).unflatten(0, (conv.groups, -1)))
    # With B = 1 nothing else bounds the layer's norm.
    respond = convolution(filters, None, conv, norm=None if layer.b == 1 else math.sqrt(shared) * stretch)
    return BcosMap(
        b=layer.b,
        max_out=layer.max_out,
        groups=conv.groups,
        axis=layer.channel_axis,
        filters=filters.flatten(1),
        respond=respond,
        energies=energies,
        inside=PATCH_EPSILON,
        shared=shared,
        stretch=stretch,
    )


@bounds(BcosLinear)
def _bcos_linear(layer: BcosLinear) -> Transform:
    filters = _unit_weight(layer.linear)
    return BcosMap(
        b=layer.b,
        max_out=layer.max_out,
        axis=layer.channel_axis,
        filters=filters,
        respond=linear(filters, None),
        energies=lambda squares: squares.sum(dim=-1, keepdim=True),
        outside=LINEAR_EPSILON,
        stretch=spectral_norm(filters),
    )


@bounds(PooledClassMaps)
def _pooled_class_maps(layer: PooledClassMaps) -> Transform:
    classify, finish = _bcos_convolution(layer), transform_of(layer.logit_layer)
    return lambda bound: finish(mean_over_positions(classify(bound)))


def _unit_weight(layer: UnitConv2d | UnitLinear) -> Tensor:
    weight = _exact(layer.weight)
    filters: Tensor = weight if layer.normalised else unit_rows(weight)
    return filters


def _exact(values: Tensor) -> Tensor:
    exact: Tensor = values.detach().double()
    return exact


def pair(value: int | Sequence[int]) -> tuple[int, int]:
    """One number for both axes, or one for each."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _settings(layer: nn.Conv2d | None) -> dict[str, Any]:
    """What a convolution is called with."""
    if layer is None:
        return {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1}
    if layer.padding_mode != "zeros":
        raise NoRule(f"padding with {layer.padding_mode} has no bound")
    return {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation, "groups": layer.groups}
