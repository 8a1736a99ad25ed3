"""The one skeleton of DenseNets (Huang et al., 2017; DenseNet-BC), for small and large images.

Names of modules are those of torchvision and of the B-cos package.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from robustbench_bcos.model_zoo.architectures.layers import LayerFactory
from robustbench_bcos.model_zoo.architectures.registry import KeyLayers, register_twins

BOTTLENECK = 4
"""Channels between a layer's two convolutions, relative to those it adds."""


class DenseLayer(nn.Module):
    """Norm and 1x1 convolution, norm and 3x3 convolution: from all features so far to ``growth`` new channels."""

    def __init__(self, parts: LayerFactory, in_channels: int, growth: int) -> None:
        super().__init__()
        self.norm1 = parts.norm(in_channels)
        self.act1 = parts.activation()
        self.conv1 = parts.convolution(in_channels, BOTTLENECK * growth, 1)
        self.norm2 = parts.norm(BOTTLENECK * growth)
        self.act2 = parts.activation()
        self.conv2 = parts.convolution(BOTTLENECK * growth, growth, 3)

    def forward(self, features: Tensor) -> Tensor:
        """Compute the new channels alone."""
        inner = self.conv1(self.act1(self.norm1(features)))
        new: Tensor = self.conv2(self.act2(self.norm2(inner)))
        return new

    def normed(self) -> list[tuple[nn.Module, nn.Module]]:
        """The 1x1 convolution; what the other one gives is seen by every later layer."""
        return [(self.conv1, self.norm2)]


class DenseBlock(nn.Module):
    """Layers of which each sees what all before it gave."""

    def __init__(self, parts: LayerFactory, depth: int, in_channels: int, growth: int) -> None:
        super().__init__()
        for index in range(depth):
            self.add_module(f"denselayer{index + 1}", DenseLayer(parts, in_channels + index * growth, growth))

    def forward(self, features: Tensor) -> Tensor:
        """Append each layer's channels to the input's."""
        for layer in self.children():
            features = torch.cat([features, layer(features)], dim=1)
        return features


class Transition(nn.Sequential):
    """Halves channels, height and width between two blocks. The pool is a mean in conventional networks, too."""

    def __init__(self, parts: LayerFactory, in_channels: int) -> None:
        super().__init__()
        self.norm = parts.norm(in_channels)
        self.act = parts.activation()
        self.conv = parts.convolution(in_channels, in_channels // 2, 1)
        self.pool = nn.AvgPool2d(2)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What tells one DenseNet from another."""

    depths: tuple[int, ...]
    """Layers of each block."""
    growth: int
    """Channels that each layer adds."""
    width: int
    """Channels of the stem."""
    small_images: bool = False
    """A stem of one 3x3 convolution without norm, in place of one that divides height and width by four."""


class DenseNet(nn.Module):
    """Densely connected network on images of any height and width that survive its halvings.

    Args:
        parts: the layers to build it from.
        plan: its shape.
        in_channels: channels of the encoded image.
        classes: number of logits.
    """

    def __init__(self, parts: LayerFactory, *, plan: Plan, in_channels: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential()
        if plan.small_images:
            self.features.add_module("conv0", parts.convolution(in_channels, plan.width, 3))
        else:
            self.features.add_module("conv0", parts.convolution(in_channels, plan.width, 7, 2))
            self.features.add_module("norm0", parts.norm(plan.width))
            self.features.add_module("act0", parts.activation())
            self.features.add_module("pool0", parts.pool(3, 2, 1))
        channels = plan.width
        for number, depth in enumerate(plan.depths, start=1):
            self.features.add_module(f"denseblock{number}", DenseBlock(parts, depth, channels, plan.growth))
            channels += depth * plan.growth
            if number < len(plan.depths):
                self.features.add_module(f"transition{number}", Transition(parts, channels))
                channels //= 2
        self.features.add_module("norm5", parts.norm(channels))
        self.features.add_module("act5", parts.activation())
        self.classifier = parts.head(channels, classes)

    def forward(self, encoded: Tensor) -> Tensor:
        """Encoded images to logits."""
        logits: Tensor = self.classifier(self.features(encoded))
        return logits

    def normed(self) -> list[tuple[nn.Module, nn.Module]]:
        """The stem, where it has a norm; layers know of their own."""
        stem = dict(self.features.named_children())
        return [(stem["conv0"], stem["norm0"])] if "norm0" in stem else []


IMAGENET = {
    "densenet121": Plan(depths=(6, 12, 24, 16), growth=32, width=64),
    "densenet161": Plan(depths=(6, 12, 36, 24), growth=48, width=96),
    "densenet169": Plan(depths=(6, 12, 32, 32), growth=32, width=64),
    "densenet201": Plan(depths=(6, 12, 48, 32), growth=32, width=64),
}
"""As in torchvision, and in the B-cos models that followed it."""

CIFAR = {
    f"densenet{depth}_{growth}": Plan(
        depths=((depth - 4) // 6,) * 3, growth=growth, width=2 * growth, small_images=True
    )
    for depth, growth in ((52, 12), (100, 12), (190, 40), (250, 24))
}
"""Huang et al. (2017), 4.2: three blocks of n layers with two convolutions each, 6n + 4 layers."""

for _name, _plan in (IMAGENET | CIFAR).items():
    register_twins(
        _name,
        partial(DenseNet, plan=_plan),
        # The first norm of all: CIFAR's stem has none.
        KeyLayers(
            first="features.conv0",
            last="classifier",
            norm="features.denseblock1.denselayer1.norm1",
            filters=_plan.width,
        ),
    )
