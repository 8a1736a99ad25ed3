"""Factories of layers: a B-cos network and its conventional counterpart share a backbone and differ in layers alone."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_bcos.model_zoo.bcos.layers import BcosConv2d, BcosLinear, LogitLayer
from robustbench_bcos.model_zoo.bcos.norms import EPSILON, Affine, make_norm
from robustbench_bcos.model_zoo.bcos.tokens import TokenNorm


@runtime_checkable
class Convolution(Protocol):
    """Makes a convolution from image-shaped features to image-shaped features."""

    def __call__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int = 1,
        *,
        padding: int | None = None,
        groups: int = 1,
        bias: bool = False,
    ) -> nn.Module:
        """Make one.

        Args:
            in_channels: input channels.
            out_channels: output channels.
            kernel: height and width in pixels.
            stride: in pixels.
            padding: in pixels; by default kernel // 2.
            groups: channels are split into so many groups.
            bias: whether the conventional layer has a bias; a B-cos layer never has one.
        """
        ...


@runtime_checkable
class Linear(Protocol):
    """Makes a linear layer on the last axis."""

    def __call__(self, in_features: int, out_features: int, *, bias: bool = True) -> nn.Module:
        """Make one; a B-cos layer never has a bias."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerFactory:
    """Makes the layers of a backbone."""

    convolution: Convolution
    norm: Callable[[int], nn.Module]
    """Channels to a layer on (image, channel, height, width)."""
    activation: Callable[[], nn.Module]
    pool: Callable[[int, int, int], nn.Module]
    """(kernel, stride, padding) to a layer that halves height and width inside the network."""
    head: Callable[[int, int], nn.Module]
    """(features, classes) to a module from feature maps to logits, mean over positions included."""
    pointwise: Callable[[int, int], nn.Module]
    """(in_channels, out_channels) to a 1x1 convolution; conventional weights have no axes of height and width."""
    linear: Linear
    token_norm: Callable[[int], nn.Module]
    """Features to a layer norm on (image, token, feature)."""
    logit_layer: LogitLayer | None = None
    """The last step of a B-cos network. The head contains it; a network without that head must end with it."""

    @property
    def bcos(self) -> bool:
        """Whether these are B-cos layers, for backbones whose published B-cos networks number layers differently."""
        return self.logit_layer is not None


@runtime_checkable
class BcosHead(Protocol):
    """Makes the end of a B-cos network, from feature maps to logits."""

    def __call__(self, features: int, classes: int, logit_layer: LogitLayer, *, b: float, max_out: int) -> nn.Module:
        """Make one."""
        ...


@runtime_checkable
class NormedBlock(Protocol):
    """A module that lists its convolutions whose only consumer is a norm, so that folding can merge the two."""

    def normed(self) -> list[tuple[nn.Module, nn.Module]]:
        """Convolutions and their norms."""
        ...


class PointwiseLinear(nn.Linear):
    """Conventional 1x1 convolution that is stored as a linear layer on channels."""

    def forward(self, input: Tensor) -> Tensor:
        """Mix the channels of each position."""
        return F.conv2d(input, self.weight[:, :, None, None], self.bias)


class PooledLinear(nn.Linear):
    """Conventional head: mean over positions, then a linear classifier."""

    def forward(self, input: Tensor) -> Tensor:
        """Feature maps to logits."""
        return super().forward(input.mean(dim=(2, 3)))


class PooledClassMaps(BcosConv2d):
    """B-cos head: classify every position, mean over positions, then temperature and bias."""

    def __init__(self, features: int, classes: int, logit_layer: LogitLayer, *, b: float, max_out: int) -> None:
        super().__init__(features, classes, b=b, max_out=max_out)
        self.logit_layer = logit_layer

    def forward(self, features: Tensor) -> Tensor:
        """Feature maps to logits."""
        logits: Tensor = self.logit_layer(super().forward(features).mean(dim=(2, 3)))
        return logits


def _padded(make: Callable[..., nn.Module]) -> Convolution:
    """Convolutions that by default keep height and width at stride 1."""

    def convolution(
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int = 1,
        *,
        padding: int | None = None,
        groups: int = 1,
        bias: bool = False,
    ) -> nn.Module:
        padding = kernel // 2 if padding is None else padding
        return make(in_channels, out_channels, kernel, stride, padding, groups=groups, bias=bias)

    return convolution


def conventional_layers(
    *,
    norm: str = "batch",
    norm_affine: Affine = "full",
    norm_epsilon: float = EPSILON,
    activation: Callable[[], nn.Module] = nn.ReLU,
    head: Callable[[int, int], nn.Module] = PooledLinear,
) -> LayerFactory:
    """Plain convolutions, an activation, maxima for pools, and biases in norms and classifier."""
    return LayerFactory(
        convolution=_padded(nn.Conv2d),
        norm=partial(make_norm, norm, norm_affine, epsilon=norm_epsilon),
        activation=activation,
        pool=nn.MaxPool2d,
        head=head,
        pointwise=PointwiseLinear,
        linear=nn.Linear,
        token_norm=partial(TokenNorm, affine=norm_affine),
    )


def bcos_layers(
    *,
    classes: int,
    b: float = 2.0,
    max_out: int = 1,
    norm: str = "batch-uncentred",
    norm_affine: Affine = "no-bias",
    norm_epsilon: float = EPSILON,
    logit_bias: float | None = None,
    temperature: float | None = None,
    head: BcosHead = PooledClassMaps,
) -> LayerFactory:
    """B-cos convolutions and classifier, no activation, means for pools.

    Args:
        classes: number of logits.
        b: exponent of the B-cos transform.
        max_out: filters per output.
        norm: name of the norm layer.
        norm_affine: which affine parameters the norms have.
        norm_epsilon: added to the variance by norms that take their statistics from the image.
        logit_bias: added to all logits; by default -ln(classes - 1), at which sigmoid gives 1 / classes.
        temperature: divides the logits.
        head: end of the network, from feature maps to logits.
    """

    def without_bias(*arguments: Any, bias: bool, **settings: Any) -> nn.Module:  # noqa: ANN401
        return BcosConv2d(*arguments, **settings, b=b, max_out=max_out)

    def linear(in_features: int, out_features: int, *, bias: bool = True) -> nn.Module:
        return BcosLinear(in_features, out_features, b=b, max_out=max_out)

    logit_layer = bcos_logit_layer(classes, logit_bias, temperature)
    return LayerFactory(
        convolution=_padded(without_bias),
        norm=partial(make_norm, norm, norm_affine, epsilon=norm_epsilon),
        activation=nn.Identity,
        pool=nn.AvgPool2d,
        head=partial(head, logit_layer=logit_layer, b=b, max_out=max_out),
        pointwise=partial(BcosConv2d, b=b, max_out=max_out),
        linear=linear,
        token_norm=partial(TokenNorm, affine=norm_affine),
        logit_layer=logit_layer,
    )


def bcos_logit_layer(classes: int, bias: float | None, temperature: float | None) -> LogitLayer:
    """The last step of a B-cos network, by default with the published bias of -ln(classes - 1)."""
    return LogitLayer(temperature=temperature, bias=-math.log(classes - 1) if bias is None else bias)
