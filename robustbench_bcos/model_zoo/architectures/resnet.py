"""The one skeleton of ResNets (He et al., 2016), ResNeXts (Xie et al., 2017) and Wide ResNets, for images of any size.

Convolution, norm, activation, pool and head are parts that are handed in, so that a B-cos network and its conventional
baseline differ in those and in nothing else. Names of modules are those of published checkpoints.
"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from robustbench_bcos.model_zoo.architectures.layers import LayerFactory
from robustbench_bcos.model_zoo.architectures.registry import KeyLayers, register_twins


class Names(NamedTuple):
    """What checkpoints call the modules on whose names they do not agree."""

    shortcut: str = "downsample"
    classifier: str = "fc"


PUBLISHED_NAMES = Names()
"""Torchvision's and the B-cos package's."""


class AbstractBlock(nn.Module):
    """A residual branch, in subclasses, and a shortcut, projected by a 1x1 convolution where the shape changes."""

    expansion: ClassVar[int] = 1
    """Channels given, relative to the width of the stage."""
    shortcut_name: str

    def add_shortcut(self, name: str, parts: LayerFactory, in_channels: int, width: int, stride: int) -> None:
        """To be called last: where training begins depends on the order of modules."""
        self.shortcut_name = name
        out_channels = width * self.expansion
        projection: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            convolution = parts.convolution(in_channels, out_channels, 1, stride)
            projection = nn.Sequential(convolution, parts.norm(out_channels))
        self.add_module(name, projection)

    @property
    def shortcut_module(self) -> nn.Module:
        """The shortcut, whatever checkpoints call it."""
        module: nn.Module = getattr(self, self.shortcut_name)
        return module

    def normed(self) -> list[tuple[nn.Module, nn.Module]]:
        """The projection; subclasses add their own."""
        projection = self.shortcut_module
        return [(projection[0], projection[1])] if isinstance(projection, nn.Sequential) else []


class BasicBlock(AbstractBlock):
    """Two 3x3 convolutions."""

    def __init__(self, parts: LayerFactory, in_channels: int, width: int, stride: int, *, shortcut: str) -> None:
        super().__init__()
        self.conv1 = parts.convolution(in_channels, width, 3, stride)
        self.bn1 = parts.norm(width)
        self.act1 = parts.activation()
        self.conv2 = parts.convolution(width, width, 3)
        self.bn2 = parts.norm(width)
        self.act2 = parts.activation()
        self.add_shortcut(shortcut, parts, in_channels, width, stride)

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
        parts: LayerFactory,
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
        self.conv1 = parts.convolution(in_channels, inner, 1)
        self.bn1 = parts.norm(inner)
        self.act1 = parts.activation()
        self.conv2 = parts.convolution(inner, inner, 3, stride, groups=groups)
        self.bn2 = parts.norm(inner)
        self.act2 = parts.activation()
        self.conv3 = parts.convolution(inner, out_channels, 1)
        self.bn3 = parts.norm(out_channels)
        self.act3 = parts.activation()
        self.add_shortcut(shortcut, parts, in_channels, width, stride)

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
class Plan:
    """What tells one ResNet from another."""

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

    def layout(self) -> KeyLayers:
        """Where checkpoints say what they were built with."""
        return KeyLayers(first="conv1", last=self.names.classifier, norm="bn1", filters=self.width)

    def stages(self, parts: LayerFactory) -> list[nn.Sequential]:
        """Stages in order."""
        grouping = {} if self.block is BasicBlock else {"groups": self.groups, "group_width": self.group_width}
        channels, stages = self.width, []
        for number, depth in enumerate(self.depths):
            width = self.width * 2**number
            blocks = []
            for index in range(depth):
                stride = 2 if number > 0 and index == 0 else 1
                blocks.append(self.block(parts, channels, width, stride, shortcut=self.names.shortcut, **grouping))
                channels = width * self.block.expansion
            stages.append(nn.Sequential(*blocks))
        return stages


class ResNet(nn.Module):
    """Residual network on images of any height and width that survive its halvings.

    Args:
        parts: the layers to build it from.
        plan: its shape.
        in_channels: channels of the encoded image.
        classes: number of logits.
    """

    def __init__(self, parts: LayerFactory, *, plan: Plan, in_channels: int, classes: int) -> None:
        super().__init__()
        kernel, stride = (3, 1) if plan.small_images else (7, 2)
        self.conv1 = parts.convolution(in_channels, plan.width, kernel, stride)
        self.bn1 = parts.norm(plan.width)
        self.act = parts.activation()
        self.pool = nn.Identity() if plan.small_images else parts.pool(3, 2, 1)
        self.path = [f"layer{number}" for number in range(1, len(plan.depths) + 1)] + [plan.names.classifier]
        for name, stage in zip(self.path, plan.stages(parts), strict=False):
            self.add_module(name, stage)
        features = plan.width * 2 ** (len(plan.depths) - 1) * plan.block.expansion
        self.add_module(plan.names.classifier, parts.head(features, classes))

    def forward(self, encoded: Tensor) -> Tensor:
        """Encoded images to logits."""
        features: Tensor = self.pool(self.act(self.bn1(self.conv1(encoded))))
        for name in self.path:
            features = getattr(self, name)(features)
        return features

    def normed(self) -> list[tuple[nn.Module, nn.Module]]:
        """The stem; blocks know of their own."""
        return [(self.conv1, self.bn1)]


IMAGENET = {
    "resnet18": Plan(block=BasicBlock, depths=(2, 2, 2, 2)),
    "resnet34": Plan(block=BasicBlock, depths=(3, 4, 6, 3)),
    "resnet50": Plan(block=Bottleneck, depths=(3, 4, 6, 3)),
    "resnet101": Plan(block=Bottleneck, depths=(3, 4, 23, 3)),
    "resnet152": Plan(block=Bottleneck, depths=(3, 8, 36, 3)),
    "resnext50_32x4d": Plan(block=Bottleneck, depths=(3, 4, 6, 3), groups=32, group_width=4),
    "resnext101_32x8d": Plan(block=Bottleneck, depths=(3, 4, 23, 3), groups=32, group_width=8),
    "wide_resnet50_2": Plan(block=Bottleneck, depths=(3, 4, 6, 3), group_width=128),
    "wide_resnet101_2": Plan(block=Bottleneck, depths=(3, 4, 23, 3), group_width=128),
}
"""As in torchvision, and in the B-cos models that followed it."""

MADRYLAB = {
    "cifar_resnet50": Plan(
        block=Bottleneck, depths=(3, 4, 6, 3), small_images=True, names=Names(shortcut="shortcut", classifier="linear")
    )
}
"""ImageNet's ResNet-50 with a stem for small images, as in MadryLab's ``robustness``."""

CIFAR = {
    f"resnet{depth}": Plan(block=BasicBlock, depths=((depth - 2) // 6,) * 3, width=16, small_images=True)
    for depth in (8, 20, 32, 44, 56, 110)
}
"""He et al. (2016), 4.2: three stages of basic blocks, 6n + 2 layers."""

CIFAR_RESNEXTS = {
    f"resnext29_{groups}x64d": Plan(
        block=Bottleneck, depths=(3, 3, 3), groups=groups, group_width=64, small_images=True
    )
    for groups in (8, 16)
} | {
    f"resnext{depth}_{groups}x{group_width}d": Plan(
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

for _name, _plan in (IMAGENET | MADRYLAB | CIFAR | CIFAR_RESNEXTS).items():
    register_twins(_name, partial(ResNet, plan=_plan), _plan.layout())
