"""B-cos layers with raw weights, of networks that were conventional once (Arya et al., 2024, "B-cosification").

    |w.x / ||x|| |^(B-1) * w.x,

in which the filters keep the norm they were trained with, so that for B = 1 the layer is the conventional one, and
what is raised to a power is no cosine. The same tensors mean something else in a layer that normalises its filters:
cards say which they are for, and files do in their header. Such a layer may have a bias, which is part of the response.
"""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from robustbench_bcos.model_zoo.bcos.closed_form import PATCH_EPSILON
from robustbench_bcos.model_zoo.bcos.layers import AbstractBcosLayer, BcosConv2d, BcosLinear, BcosModule
from robustbench_bcos.model_zoo.bcos.linear_closed_form import LINEAR_EPSILON

RAW, UNIT = "raw", "unit"
"""Kinds of weights, as cards and files name them."""


class _Around(nn.Module):
    """Whatever code around a layer asks the conventional one for: the device of its weight, its number of outputs."""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 (whatever the layer has)
        try:
            return super().__getattr__(name)
        except AttributeError:
            # There are no modules yet while a copy is being made.
            layer = self.__dict__.get("_modules", {}).get("linear")
            if layer is None:
                raise
            return getattr(layer, name)


class RawBcosConv2d(_Around, BcosConv2d):
    """B-cos convolution around a conventional one, whose filters are not normalised.

    Its tensors are ``linear.weight`` and, where the bias is kept, ``linear.bias``.

    Attributes:
        overwritten: whether what follows may write into its outputs, which a gradient in closed form still needs.
    """

    overwritten = False

    linear: nn.Conv2d  # type: ignore[assignment] # what it shares with its base needs no more

    def __init__(self, convolution: nn.Conv2d, *, b: float) -> None:
        AbstractBcosLayer.__init__(self, b, 1)
        self.linear = convolution

    def forward(self, features: Tensor) -> Tensor:
        """Respond to each patch by its share that the filters see."""
        outputs = super().forward(features)
        return outputs.clone() if self.overwritten and self.closed_form is not None else outputs

    def _filters(self) -> Tensor:
        return self.linear.weight


class RawBcosLinear(_Around, BcosLinear):
    """B-cos linear layer around a conventional one, whose rows are not normalised."""

    linear: nn.Linear  # type: ignore[assignment]

    def __init__(self, linear: nn.Linear, *, b: float) -> None:
        AbstractBcosLayer.__init__(self, b, 1)
        self.linear = linear


def _none(layer: nn.Module) -> list[Tensor]:
    return []


class RawBcosWithin(BcosModule):
    """A layer with a way of its own, such as to pad, around a B-cos product in place of its linear one.

    Where the layer convolves with or multiplies by a weight, its response is scaled as that of the other layers here.

    Args:
        layer: the conventional layer.
        b: the exponent.
        plain: gives the weights whose products stay as they are.
    """

    def __init__(self, layer: nn.Module, *, b: float, plain: Callable[[nn.Module], list[Tensor]] = _none) -> None:
        super().__init__(b)
        self.layer = layer
        self._plain = plain

    def forward(self, *features: Any, **settings: Any) -> Any:  # noqa: ANN401 (the layer's own)
        """What the layer makes of its input."""
        with _Products(self, self._plain(self.layer)):
            return self.layer(*features, **settings)


class _Products(TorchFunctionMode):
    def __init__(self, owner: RawBcosWithin, plain: list[Tensor]) -> None:
        super().__init__()
        self.owner = owner
        self.plain = {id(weight) for weight in plain}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        kwargs = kwargs or {}
        responses = func(*args, **kwargs)
        if func is F.conv2d and id(args[1]) not in self.plain:
            return self.owner.scaled(responses, lambda: _patch_norms(*args, **kwargs))
        if func is F.linear and id(args[1]) not in self.plain:
            return self.owner.scaled(responses, lambda: args[0].norm(dim=-1, keepdim=True) + LINEAR_EPSILON)
        return responses


def _patch_norms(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,  # noqa: ANN401 (as of conv2d)
    padding: Any = 0,  # noqa: ANN401
    dilation: Any = 1,  # noqa: ANN401
    groups: int = 1,
) -> Tensor:
    energy = features.square().unflatten(1, (groups, -1)).sum(dim=2)
    ones = energy.new_ones(groups, 1, *weight.shape[2:])
    norms = (F.conv2d(energy, ones, None, stride, padding, dilation, groups) + PATCH_EPSILON).sqrt()
    return norms if groups == 1 else norms.repeat_interleave(weight.shape[0] // groups, dim=1)


def weights_of(network: nn.Module) -> str:
    """``raw`` or ``unit``; empty for a conventional network."""
    found = {
        RAW if isinstance(module, RawBcosConv2d | RawBcosLinear | RawBcosWithin) else UNIT
        for module in network.modules()
        if isinstance(module, BcosModule)
    }
    return "+".join(sorted(found))
