"""Norms that take their statistics from the image and subtract its mean."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

from torch import Tensor

from robustbench_bcos.model_zoo.bcosify import RULES
from robustbench_bcos.model_zoo.bcosify.rule import AbstractRule, Function, constant, constants


@final
@RULES.registered("norms")
class Norms(AbstractRule):
    """The deviation is a constant in explanation mode; the mean is linear."""

    functions = ("layer_norm", "group_norm", "instance_norm")

    def __call__(self, function: Function, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:  # noqa: ANN401
        """The normalised values."""
        return _NORMS[function.__name__](*args, **kwargs)


def _layer(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    axes = tuple(range(-len(normalized_shape), 0))
    return _affine(_standardised(input, axes, eps), weight, bias)


def _group(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Tensor:
    grouped = input.unflatten(1, (num_groups, -1))
    normed = _standardised(grouped, tuple(range(2, grouped.dim())), eps).flatten(1, 2)
    return _affine(normed, *(_per_channel(parameter, input) for parameter in (weight, bias)))


def _instance(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if use_input_stats:
        normed = _standardised(input, tuple(range(2, input.dim())), eps)
    else:
        assert running_mean is not None
        assert running_var is not None
        scale = (running_var + eps).rsqrt().view(1, -1, *[1] * (input.dim() - 2))
        normed = (input - running_mean.view_as(scale)) * scale
    return _affine(normed, *(_per_channel(parameter, input) for parameter in (weight, bias)))


def _standardised(input: Tensor, axes: tuple[int, ...], eps: float) -> Tensor:
    mean = input.mean(dim=axes, keepdim=True)
    with constants():
        deviation = (input.var(dim=axes, correction=0, keepdim=True) + eps).sqrt()
    normed: Tensor = (input - mean) / constant(deviation)
    return normed


def _per_channel(parameter: Tensor | None, input: Tensor) -> Tensor | None:
    return None if parameter is None else parameter.view(1, -1, *[1] * (input.dim() - 2))


def _affine(normed: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    scaled = normed if weight is None else normed * weight
    return scaled if bias is None else scaled + bias


_NORMS: Mapping[str, Callable[..., Tensor]] = {
    "layer_norm": _layer,
    "group_norm": _group,
    "instance_norm": _instance,
}
