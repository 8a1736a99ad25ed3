"""What functions and methods of tensors make of bounds."""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_bcos.certificates.bound import Bound
from robustbench_bcos.certificates.layers import NoRule, mean_over_positions, relu, scaled, transform_of

FUNCTIONS: dict[Any, Callable[..., Any]] = {}
"""By function, or by name of a method."""


def bounds_of(*functions: object) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register what these functions, and methods of these names, make of bounds."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        FUNCTIONS.update(dict.fromkeys(functions, function))
        return function

    return register


@bounds_of(operator.add, operator.iadd, torch.add, "add", "add_")
def _add(first: Any, second: Any) -> Bound:  # noqa: ANN401
    if isinstance(first, Bound) and isinstance(second, Bound):
        return _summed(first, second)
    bound, constant = (first, second) if isinstance(first, Bound) else (second, first)
    return _affine(bound, 1.0, constant)


def _summed(first: Bound, second: Bound) -> Bound:
    if first.shape != second.shape:
        raise NoRule("a sum of maps of different shapes has no bound")
    summed = Bound(
        centre=first.centre + second.centre,
        low=first.low + second.low,
        high=first.high + second.high,
        euclidean=first.euclidean + second.euclidean,
        largest=first.largest + second.largest,
        unit=first.unit,
    )
    return summed.rounded(summed.rounding(2) * summed.magnitude)


@bounds_of(operator.sub, torch.sub, "sub")
def _subtract(first: Any, second: Any) -> Bound:  # noqa: ANN401
    if isinstance(first, Bound) and isinstance(second, Bound):
        return _summed(first, _affine(second, -1.0, 0.0))
    if isinstance(first, Bound):
        return _affine(first, 1.0, -second)
    return _affine(second, -1.0, first)


@bounds_of(operator.mul, torch.mul, "mul")
def _multiply(first: Any, second: Any) -> Bound:  # noqa: ANN401
    if isinstance(first, Bound) and isinstance(second, Bound):
        raise NoRule("a product of two maps has no bound")
    bound, constant = (first, second) if isinstance(first, Bound) else (second, first)
    return _affine(bound, constant, 0.0)


@bounds_of(operator.truediv, torch.div, "div")
def _divide(first: Any, second: Any) -> Bound:  # noqa: ANN401
    if not isinstance(first, Bound) or isinstance(second, Bound):
        raise NoRule("a division by a map has no bound")
    return _affine(first, 1.0 / (second.double() if isinstance(second, Tensor) else second), 0.0)


@bounds_of(operator.neg, torch.neg, "neg")
def _negative(bound: Bound) -> Bound:
    return _affine(bound, -1.0, 0.0)


def _affine(bound: Bound, scale: Any, offset: Any) -> Bound:  # noqa: ANN401
    """Times a number or a constant tensor, plus another."""
    constants = [torch.as_tensor(value, device=bound.centre.device).double() for value in (scale, offset)]
    if any(torch.broadcast_shapes(constant.shape, bound.shape) != bound.shape for constant in constants):
        raise NoRule("a constant that is larger than what it is combined with has no bound")
    if any(constant.dim() == bound.centre.dim() and len(constant) > 1 for constant in constants):
        raise NoRule("a constant for each image has no bound")
    return scaled(*constants)(bound)


@bounds_of(F.relu, torch.relu, torch.relu_, "relu", "relu_")
def _relu(bound: Bound, inplace: bool = False) -> Bound:
    return relu(bound)


@bounds_of(torch.flatten, "flatten")
def _flatten(bound: Bound, start_dim: int = 0, end_dim: int = -1) -> Bound:
    return _rearranged(bound, lambda values: values.flatten(start_dim, end_dim))


@bounds_of(torch.reshape, "view", "reshape")
def _reshape(bound: Bound, *shape: Any) -> Bound:  # noqa: ANN401
    sizes = shape[0] if isinstance(shape[0], tuple | list) else shape
    return _rearranged(bound, lambda values: values.reshape(*sizes))


@bounds_of("contiguous", "clone")
def _unchanged(bound: Bound, **settings: Any) -> Bound:  # noqa: ANN401
    return bound


@bounds_of(torch.squeeze, "squeeze")
def _squeeze(bound: Bound, *dims: int) -> Bound:
    return _rearranged(bound, lambda values: values.squeeze(*dims))


def _rearranged(bound: Bound, change: Callable[[Tensor], Tensor]) -> Bound:
    images = len(bound.centre)
    changed = bound.mapped(change)
    marks = torch.arange(images).view(-1, *[1] * (bound.centre.dim() - 1)).expand(bound.shape)
    after = change(marks)
    if (
        after.dim() == 0
        or len(after) != images
        or (after != after.reshape(images, -1)[:, :1].view(-1, *[1] * (after.dim() - 1))).any()
    ):
        raise NoRule("what mixes images has no bound")
    return changed


@bounds_of(torch.cat, torch.concat)
def _concatenate(bounds: Sequence[Any], dim: int = 0) -> Bound:
    if not all(isinstance(bound, Bound) for bound in bounds) or dim % bounds[0].centre.dim() == 0:
        raise NoRule("only maps of the same images can be concatenated")
    moves = torch.stack([bound.euclidean for bound in bounds])
    return Bound(
        centre=torch.cat([bound.centre for bound in bounds], dim),
        low=torch.cat([bound.low for bound in bounds], dim),
        high=torch.cat([bound.high for bound in bounds], dim),
        euclidean=torch.linalg.vector_norm(moves, dim=0),
        largest=torch.stack([bound.largest for bound in bounds]).amax(dim=0),
        unit=bounds[0].unit,
    ).sharpened()


@bounds_of(operator.getitem)
def _index(bound: Bound, index: Any) -> Bound:  # noqa: ANN401
    first, *rest = index if isinstance(index, tuple) else (index,)
    if first is Ellipsis or first != slice(None) or not all(isinstance(part, slice) for part in rest):
        raise NoRule("only slices of maps have a bound")
    return bound.mapped(lambda values: values[index]).sharpened()


@bounds_of(F.pad)
def _pad(bound: Bound, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Bound:
    if mode != "constant" or value or len(pad) > 2 * (bound.centre.dim() - 1) or min(pad) < 0:
        raise NoRule("padding with anything but zeros has no bound")
    return bound.mapped(lambda values: F.pad(values, tuple(pad)))


@bounds_of(torch.mean, "mean")
def _mean(bound: Bound, dim: Any = None, keepdim: bool = False) -> Bound:  # noqa: ANN401
    axes = {axis % bound.centre.dim() for axis in ((dim,) if isinstance(dim, int) else dim or ())}
    if axes != set(range(2, bound.centre.dim())) or not axes:
        raise NoRule("a mean over anything but all positions has no bound")
    means = mean_over_positions(bound)
    kept = tuple(1 for _ in axes)
    return means.mapped(lambda values: values.view(*values.shape, *kept)) if keepdim else means


@bounds_of(F.adaptive_avg_pool2d)
def _adaptive(bound: Bound, output_size: Any) -> Bound:  # noqa: ANN401
    return transform_of(nn.AdaptiveAvgPool2d(output_size))(bound)


@bounds_of(F.avg_pool2d)
def _average(bound: Bound, kernel_size: Any, stride: Any = None, padding: Any = 0, *rest: Any, **more: Any) -> Bound:  # noqa: ANN401
    return transform_of(nn.AvgPool2d(kernel_size, stride, padding, *rest, **more))(bound)


@bounds_of(F.max_pool2d)
def _maximum(bound: Bound, *settings: Any, **more: Any) -> Bound:  # noqa: ANN401
    return transform_of(nn.MaxPool2d(*settings, **more))(bound)


@bounds_of(getattr)
def _attribute(bound: Bound, name: str) -> Any:  # noqa: ANN401
    if name in ("shape", "ndim", "device", "dtype"):
        return getattr(bound.centre, name)
    raise NoRule(f"{name} has no bound")


@bounds_of("size")
def _size(bound: Bound, dim: int | None = None) -> Any:  # noqa: ANN401
    return bound.shape if dim is None else bound.shape[dim]
