"""DenseNets (Huang et al., 2017; DenseNet-BC), for small and large images.

Modules have the names they have in torchvision and in the B-cos package.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from robustbench_bcos.model_zoo.architectures.layers import LayerFactory
from robustbench_bcos.model_zoo.architectures.registry import KeyLayers, register_architecture

BOTTLENECK = 4
"""Channels between a layer's two convolutions, relative to those it adds."""


class DenseLayer(nn.Module):
    """Norm and 1x1 convolution, norm and 3x3 convolution: from all features so far to ``growth`` new channels."""

    def __init__(self, make: LayerFactory, in_channels: int, growth: int) -> None:
        super().__init__()
        self.norm1 = make.norm(in_channels)
        self.act1 = make.activation()
        self.conv1 = make.convolution(in_channels, BOTTLENECK * growth, 1)
        self.norm2 = make.norm(BOTTLENECK * growth)
        self.act2 = make.activation()
        self.conv2 = make.convolution(BOTTLENECK * growth, growth, 3)

    def forward(self, features: Tensor) -> Tensor:
        """Compute the new channels only."""
        inner = self.conv1(self.act1(self.norm1(features)))
        new: Tensor = self.conv2(self.act2(self.norm2(inner)))
        return new

    def normed(self) -> list[tuple[nn.Module, nn.Module]]:
        """The 1x1 convolution. Every later layer sees the output of the 3x3 one, which no norm follows directly."""
        return [(self.conv1, self.norm2)]


class DenseBlock(nn.Module):
    """Layers each of which takes the outputs of all layers before it."""

    def __init__(self, make: LayerFactory, depth: int, in_channels: int, growth: int) -> None:
        super().__init__()
        for index in range(depth):
            self.add_module(f"denselayer{index + 1}", DenseLayer(make, in_channels + index * growth, growth))

    def forward(self, features: Tensor) -> Tensor:
        """Append each layer's channels to the input's."""
        for layer in self.children():
            features = torch.cat([features, layer(features)], dim=1)
        return features


class Transition(nn.Sequential):
    """Halves channels, height and width between two blocks, in both families by a mean."""

    def __init__(self, make: LayerFactory, in_channels: int) -> None:
        super().__init__()
        self.norm = make.norm(in_channels)
        self.act = make.activation()
        self.conv = make.convolution(in_channels, in_channels // 2, 1)
        self.pool = nn.AvgPool2d(2)


@dataclass(frozen=True, kw_only=True)
class DenseNetConfig:
    """Depth, width and stem of a DenseNet."""

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
        make: makes the layers to build it from.
        config: its shape.
        in_channels: channels of the encoded image.
        classes: number of logits.
    """

    def __init__(self, make: LayerFactory, *, config: DenseNetConfig, in_channels: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential()
        if config.small_images:
            self.features.add_module("conv0", make.convolution(in_channels, config.width, 3))
        else:
            self.features.add_module("conv0", make.convolution(in_channels, config.width, 7, 2))
            self.features.add_module("norm0", make.norm(config.width))
            self.features.add_module("act0", make.activation())
            self.features.add_module("pool0", make.pool(3, 2, 1))
        channels = config.width
        for number, depth in enumerate(config.depths, start=1):
            self.features.add_module(f"denseblock{number}", DenseBlock(make, depth, channels, config.growth))
            channels += depth * config.growth
            if number < len(config.depths):
                self.features.add_module(f"transition{number}", Transition(make, channels))
                channels //= 2
        self.features.add_module("norm5", make.norm(channels))
        self.features.add_module("act5", make.activation())
        self.classifier = make.head(channels, classes)

    def forward(self, encoded: Tensor) -> Tensor:
        """Encoded images to logits."""
        logits: Tensor = self.classifier(self.features(encoded))
        return logits

    def normed(self) -> list[tuple[nn.Module, nn.Module]]:
        """The stem, if it has a norm; layers list their own."""
        stem = dict(self.features.named_children())
        return [(stem["conv0"], stem["norm0"])] if "norm0" in stem else []


IMAGENET = {
    "densenet121": DenseNetConfig(depths=(6, 12, 24, 16), growth=32, width=64),
    "densenet161": DenseNetConfig(depths=(6, 12, 36, 24), growth=48, width=96),
    "densenet169": DenseNetConfig(depths=(6, 12, 32, 32), growth=32, width=64),
    "densenet201": DenseNetConfig(depths=(6, 12, 48, 32), growth=32, width=64),
}
"""As in torchvision, and in the B-cos models that followed it."""

CIFAR = {
    f"densenet{depth}_{growth}": DenseNetConfig(
        depths=((depth - 4) // 6,) * 3, growth=growth, width=2 * growth, small_images=True
    )
    for depth, growth in ((52, 12), (100, 12), (190, 40), (250, 24))
}
"""Huang et al. (2017), 4.2: three blocks of n layers with two convolutions each, 6n + 4 layers."""

for _name, _config in (IMAGENET | CIFAR).items():
    register_architecture(
        _name,
        partial(DenseNet, config=_config),
        # The first norm of all: CIFAR's stem has none.
        KeyLayers(
            first="features.conv0",
            last="classifier",
            norm="features.denseblock1.denselayer1.norm1",
            filters=_config.width,
        ),
    )
