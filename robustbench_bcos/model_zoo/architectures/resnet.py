"""ResNets (He et al., 2016), ResNeXts (Xie et al., 2017) and Wide ResNets, for images of any size.

Modules have the names they have in published checkpoints.
"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from robustbench_bcos.model_zoo.architectures.layers import LayerFactory
from robustbench_bcos.model_zoo.architectures.registry import KeyLayers, register_architecture


class Names(NamedTuple):
    """Names of the two modules that differ between published checkpoints."""

    shortcut: str = "downsample"
    classifier: str = "fc"


PUBLISHED_NAMES = Names()
"""Torchvision's and the B-cos package's."""


class AbstractBlock(nn.Module):
    """A residual branch, in subclasses, and a shortcut, projected by a 1x1 convolution where the shape changes."""

    expansion: ClassVar[int] = 1
    """Channels given, relative to the width of the stage."""
    shortcut_name: str

    def add_shortcut(self, name: str, make: LayerFactory, in_channels: int, width: int, stride: int) -> None:
        """Call this last: initial weights are drawn in the order of modules."""
        self.shortcut_name = name
        out_channels = width * self.expansion
        projection: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            convolution = make.convolution(in_channels, out_channels, 1, stride)
            projection = nn.Sequential(convolution, make.norm(out_channels))
        self.add_module(name, projection)

    @property
    def shortcut_module(self) -> nn.Module:
        """The shortcut, under the name it has in checkpoints."""
        module: nn.Module = getattr(self, self.shortcut_name)
        return module

    def normed(self) -> list[tuple[nn.Module, nn.Module]]:
        """The projection; subclasses add their own."""
        projection = self.shortcut_module
        return [(projection[0], projection[1])] if isinstance(projection, nn.Sequential) else []


class BasicBlock(AbstractBlock):
    """Two 3x3 convolutions."""

    def __init__(self, make: LayerFactory, in_channels: int, width: int, stride: int, *, shortcut: str) -> None:
        super().__init__()
        self.conv1 = make.convolution(in_channels, width, 3, stride)
        self.bn1 = make.norm(width)
        self.act1 = make.activation()
        self.conv2 = make.convolution(width, width, 3)
        self.bn2 = make.norm(width)
        self.act2 = make.activation()
        self.add_shortcut(shortcut, make, in_channels, width, stride)

    def forward(self, features: Tensor) -> Tensor:
        """Add the block's residual to its input."""
        residual = self.act1(self.bn1(self.conv1(features)))
        residual = self.bn2(self.conv2(residual))
        summed: Tensor = self.act2(self.shortcut_module(features) + residual)
        return summed

    def normed(self) -> list[tuple[nn.Module, nn.Module]]:
        """Both convolutions, and the projection."""
        return [(self.conv1, self.bn1), (self.conv2, self.bn2), *super().normed()]


class Bottleneck(AbstractBlock):
    """A 3x3 convolution, in groups if asked, between two of 1x1. The stride is the 3x3 convolution's."""

    expansion = 4

    def __init__(
        self,
        make: LayerFactory,
        in_channels: int,
        width: int,
        stride: int,
        *,
        shortcut: str,
        groups: int = 1,
        group_width: int = 64,
    ) -> None:
        super().__init__()
        inner, out_channels = width * group_width // 64 * groups, width * self.expansion
        self.conv1 = make.convolution(in_channels, inner, 1)
        self.bn1 = make.norm(inner)
        self.act1 = make.activation()
        self.conv2 = make.convolution(inner, inner, 3, stride, groups=groups)
        self.bn2 = make.norm(inner)
        self.act2 = make.activation()
        self.conv3 = make.convolution(inner, out_channels, 1)
        self.bn3 = make.norm(out_channels)
        self.act3 = make.activation()
        self.add_shortcut(shortcut, make, in_channels, width, stride)

    def forward(self, features: Tensor) -> Tensor:
        """Add the block's residual to its input."""
        residual = self.act1(self.bn1(self.conv1(features)))
        residual = self.act2(self.bn2(self.conv2(residual)))
        residual = self.bn3(self.conv3(residual))
        summed: Tensor = self.act3(self.shortcut_module(features) + residual)
        return summed

    def normed(self) -> list[tuple[nn.Module, nn.Module]]:
        """All three convolutions, and the projection."""
        return [(self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3), *super().normed()]


@dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """Depth, width, blocks and stem of a ResNet."""

    block: type[BasicBlock] | type[Bottleneck]
    depths: tuple[int, ...]
    """Blocks of each stage. Every stage but the first halves height and width, and doubles the channels."""
    width: int = 64
    """Channels of the stem, and the width of the first stage."""
    groups: int = 1
    """Groups of the 3x3 convolutions of bottlenecks."""
    group_width: int = 64
    """Channels of each group in a stage of width 64, and in proportion elsewhere."""
    small_images: bool = False
    """A stem of one 3x3 convolution, in place of a 7x7 one and a pool that divide height and width by four."""
    names: Names = PUBLISHED_NAMES

    def key_layers(self) -> KeyLayers:
        """Layers from which arguments are inferred."""
        return KeyLayers(first="conv1", last=self.names.classifier, norm="bn1", filters=self.width)

    def stages(self, make: LayerFactory) -> list[nn.Sequential]:
        """Stages in order."""
        grouping = {} if self.block is BasicBlock else {"groups": self.groups, "group_width": self.group_width}
        channels, stages = self.width, []
        for number, depth in enumerate(self.depths):
            width = self.width * 2**number
            blocks = []
            for index in range(depth):
                stride = 2 if number > 0 and index == 0 else 1
                blocks.append(self.block(make, channels, width, stride, shortcut=self.names.shortcut, **grouping))
                channels = width * self.block.expansion
            stages.append(nn.Sequential(*blocks))
        return stages


class ResNet(nn.Module):
    """Residual network on images of any height and width that survive its halvings.

    Args:
        make: makes the layers to build it from.
        config: its shape.
        in_channels: channels of the encoded image.
        classes: number of logits.
    """

    def __init__(self, make: LayerFactory, *, config: ResNetConfig, in_channels: int, classes: int) -> None:
        super().__init__()
        kernel, stride = (3, 1) if config.small_images else (7, 2)
        self.conv1 = make.convolution(in_channels, config.width, kernel, stride)
        self.bn1 = make.norm(config.width)
        self.act = make.activation()
        self.pool = nn.Identity() if config.small_images else make.pool(3, 2, 1)
        self.path = [f"layer{number}" for number in range(1, len(config.depths) + 1)] + [config.names.classifier]
        for name, stage in zip(self.path, config.stages(make), strict=False):
            self.add_module(name, stage)
        features = config.width * 2 ** (len(config.depths) - 1) * config.block.expansion
        self.add_module(config.names.classifier, make.head(features, classes))

    def forward(self, encoded: Tensor) -> Tensor:
        """Encoded images to logits."""
        features: Tensor = self.pool(self.act(self.bn1(self.conv1(encoded))))
        for name in self.path:
            features = getattr(self, name)(features)
        return features

    def normed(self) -> list[tuple[nn.Module, nn.Module]]:
        """The stem; blocks list their own."""
        return [(self.conv1, self.bn1)]


IMAGENET = {
    "resnet18": ResNetConfig(block=BasicBlock, depths=(2, 2, 2, 2)),
    "resnet34": ResNetConfig(block=BasicBlock, depths=(3, 4, 6, 3)),
    "resnet50": ResNetConfig(block=Bottleneck, depths=(3, 4, 6, 3)),
    "resnet101": ResNetConfig(block=Bottleneck, depths=(3, 4, 23, 3)),
    "resnet152": ResNetConfig(block=Bottleneck, depths=(3, 8, 36, 3)),
    "resnext50_32x4d": ResNetConfig(block=Bottleneck, depths=(3, 4, 6, 3), groups=32, group_width=4),
    "resnext101_32x8d": ResNetConfig(block=Bottleneck, depths=(3, 4, 23, 3), groups=32, group_width=8),
    "wide_resnet50_2": ResNetConfig(block=Bottleneck, depths=(3, 4, 6, 3), group_width=128),
    "wide_resnet101_2": ResNetConfig(block=Bottleneck, depths=(3, 4, 23, 3), group_width=128),
}
"""As in torchvision, and in the B-cos models that followed it."""

MADRYLAB = {
    "cifar_resnet50": ResNetConfig(
        block=Bottleneck, depths=(3, 4, 6, 3), small_images=True, names=Names(shortcut="shortcut", classifier="linear")
    )
}
"""ImageNet's ResNet-50 with a stem for small images, as in MadryLab's ``robustness``."""

CIFAR = {
    f"resnet{depth}": ResNetConfig(block=BasicBlock, depths=((depth - 2) // 6,) * 3, width=16, small_images=True)
    for depth in (8, 20, 32, 44, 56, 110)
}
"""He et al. (2016), 4.2: three stages of basic blocks, 6n + 2 layers."""

CIFAR_RESNEXTS = {
    f"resnext29_{groups}x64d": ResNetConfig(
        block=Bottleneck, depths=(3, 3, 3), groups=groups, group_width=64, small_images=True
    )
    for groups in (8, 16)
} | {
    f"resnext{depth}_{groups}x{group_width}d": ResNetConfig(
        block=Bottleneck,
        depths=((depth - 2) // 9,) * 3,
        width=16,
        groups=groups,
        group_width=group_width,
        small_images=True,
    )
    for depth in (29, 47, 65, 101)
    for groups, group_width in ((32, 4), (16, 8))
}
"""Xie et al. (2017), 5.3: three stages of bottlenecks, 9n + 2 layers; and the narrow ones of the B-cos package."""

for _name, _config in (IMAGENET | MADRYLAB | CIFAR | CIFAR_RESNEXTS).items():
    register_architecture(_name, partial(ResNet, config=_config), _config.key_layers())
