"""Normalisation layers of B-cos networks, centred and uncentred.

"Uncentred" follows the published code: the numerator keeps its mean, the denominator is still the ordinary biased
standard deviation about that mean, so this is not an RMS norm. Without bias such a layer is a scale, which is what
keeps the network a linear map of its input. In explanation mode a variance taken from the image is a constant;
a mean is not. Every layer takes and gives (image, channel, height, width); parameters are named as in checkpoints.
"""

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_bcos.core.registry import Registry
from robustbench_bcos.model_zoo.bcos.explanation_mode import DynamicLayer

EPSILON = 1e-5
GROUPS = 2
"""Groups of a group norm, as in the published CIFAR-10 ablations."""

Affine = Literal["full", "no-bias", "none"]

NORM_LAYERS: Registry[Callable[[int], nn.Module]] = Registry("norm layer")
"""Norm layers by name, each a function of the number of channels."""


def _per_channel(parameter: Tensor) -> Tensor:
    return parameter.view(1, -1, 1, 1)


class BatchNormUncentred2d(nn.BatchNorm2d, DynamicLayer):
    """Batch norm that divides by the standard deviation and does not subtract the mean.

    ``running_mean`` is in the state because published checkpoints have it, and is never used. ``running_var`` follows
    the biased batch variance, unlike torch's batch norm.
    """

    reduced: ClassVar[tuple[int, ...]] = (0, 2, 3)

    def forward(self, input: Tensor) -> Tensor:
        """Scale by the batch's deviation in training, by the running one in evaluation."""
        assert self.running_var is not None
        variance = self.running_var
        if self.training:
            # In two passes, which takes a third of the time that torch's one takes on a CPU.
            centred = input - input.mean(dim=self.reduced, keepdim=True)
            variance = self.as_constant(centred.square().mean(dim=self.reduced).reshape(variance.shape))
            self._track(variance.detach())
        scale = (variance + self.eps).rsqrt()
        if self.weight is not None:
            scale = scale * self.weight
        scaled = input * _per_channel(scale)
        return scaled if self.bias is None else scaled + _per_channel(self.bias)

    def _track(self, variance: Tensor) -> None:
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        # As in torch, no momentum means the average of all batches so far.
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)


class BatchNormUncentred1d(BatchNormUncentred2d):
    """The same on (image, channel) or (image, channel, position)."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise each channel."""
        return super().forward(input.reshape(*input.shape[:2], -1, 1)).reshape(input.shape)

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of positions."""


class AllNormUncentred2d(BatchNormUncentred2d):
    """Uncentred batch norm with one statistic, and one weight, for all elements."""

    reduced = (0, 1, 2, 3)

    def __init__(self) -> None:
        super().__init__(1)


class AllNorm2d(nn.BatchNorm3d):
    """Batch norm with one statistic, and one weight, for all elements."""

    def __init__(self) -> None:
        super().__init__(1)

    def forward(self, input: Tensor) -> Tensor:
        """Normalise all elements together."""
        return super().forward(input.unsqueeze(1)).squeeze(1)


class ImageNorm2d(DynamicLayer):
    """Norms whose statistics come from one image: group, instance, layer and position norm.

    Args:
        channels: channels of the input; there is one weight and one bias for each.
        groups: channels are split into so many groups.
        per_position: take statistics over a group's channels at each position, instead of over its positions too.
        centred: subtract the mean.

    Attributes:
        epsilon: added to the variance.
    """

    def __init__(self, channels: int, *, groups: int = 1, per_position: bool = False, centred: bool) -> None:
        super().__init__()
        self.groups = groups
        self.reduced = (2,) if per_position else (2, 3, 4)
        self.centred = centred
        self.epsilon = EPSILON
        self.weight: nn.Parameter | None = nn.Parameter(torch.ones(channels))
        self.bias: nn.Parameter | None = nn.Parameter(torch.zeros(channels))

    def forward(self, features: Tensor) -> Tensor:
        """Normalise each image by itself."""
        if self.centred and self.groups == 1 and self.reduced == (2,) and not self.explaining:
            # Equal to the code below up to rounding, in half the time; it cannot hold the deviation constant.
            last = features.movedim(1, -1)
            return F.layer_norm(last, last.shape[-1:], self.weight, self.bias, self.epsilon).movedim(-1, 1)
        grouped = features.unflatten(1, (self.groups, -1))
        variance, mean = torch.var_mean(grouped, dim=self.reduced, correction=0, keepdim=True)
        if self.centred:
            grouped = grouped - mean
        normed: Tensor = (grouped / self.as_constant((variance + self.epsilon).sqrt())).flatten(1, 2)
        if self.weight is not None:
            normed = normed * _per_channel(self.weight)
        return normed if self.bias is None else normed + _per_channel(self.bias)

    def extra_repr(self) -> str:
        """Settings that distinguish the variants in a printed model."""
        return f"groups={self.groups}, reduced={self.reduced}, centred={self.centred}"


NORM_LAYERS.register("none", lambda channels: nn.Identity())
NORM_LAYERS.register("batch", nn.BatchNorm2d)
NORM_LAYERS.register("batch-uncentred", BatchNormUncentred2d)
NORM_LAYERS.register("all", lambda channels: AllNorm2d())
NORM_LAYERS.register("all-uncentred", lambda channels: AllNormUncentred2d())


def _register_image_norms(suffix: str, **kind: bool) -> None:
    NORM_LAYERS.register(f"group{suffix}", lambda channels: ImageNorm2d(channels, groups=GROUPS, **kind))
    NORM_LAYERS.register(f"instance{suffix}", lambda channels: ImageNorm2d(channels, groups=channels, **kind))
    NORM_LAYERS.register(f"layer{suffix}", lambda channels: ImageNorm2d(channels, **kind))
    NORM_LAYERS.register(f"position{suffix}", lambda channels: ImageNorm2d(channels, per_position=True, **kind))


_register_image_norms("", centred=True)
_register_image_norms("-uncentred", centred=False)


def make_norm(name: str, affine: Affine, channels: int, *, epsilon: float = EPSILON) -> nn.Module:
    """A norm layer with both affine parameters, without bias, or with neither.

    Args:
        name: in the registry.
        affine: which affine parameters it has.
        channels: of its input.
        epsilon: added to the variance by norms that take their statistics from the image.

    Raises:
        RequestError: there is no norm layer of that name.
    """
    norm = NORM_LAYERS[name](channels)
    if isinstance(norm, ImageNorm2d):
        norm.epsilon = epsilon
    dropped = {"full": (), "no-bias": ("bias",), "none": ("bias", "weight")}[affine]
    for parameter in dropped:
        norm.register_parameter(parameter, None)
    return norm
