"""The one skeleton of CIFAR ResNets (He et al., 2016, 4.2): three stages of basic blocks, 6n + 2 layers.

Convolution, norm, activation and head are parts that are handed in, so that a B-cos network and its conventional
baseline differ in those and in nothing else. Names of modules are those of published checkpoints.
"""

from functools import partial

from torch import Tensor, nn

from robustbench_bcos.model_zoo.architectures.parts import Parts
from robustbench_bcos.model_zoo.architectures.registry import Layout, register_twins

WIDTHS = (16, 32, 64)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, projected by a 1x1 convolution where the shape changes."""

    def __init__(self, parts: Parts, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = parts.convolution(in_channels, out_channels, 3, stride)
        self.bn1 = parts.norm(out_channels)
        self.act1 = parts.activation()
        self.conv2 = parts.convolution(out_channels, out_channels, 3, 1)
        self.bn2 = parts.norm(out_channels)
        self.act2 = parts.activation()
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            projection = parts.convolution(in_channels, out_channels, 1, stride)
            self.downsample = nn.Sequential(projection, parts.norm(out_channels))

    def forward(self, features: Tensor) -> Tensor:
        """Add the block's residual to its input."""
        residual = self.act1(self.bn1(self.conv1(features)))
        residual = self.bn2(self.conv2(residual))
        summed: Tensor = self.act2(self.downsample(features) + residual)
        return summed

    def normed(self) -> list[tuple[nn.Module, nn.Module]]:
        """Both convolutions, and the projection."""
        pairs = [(self.conv1, self.bn1), (self.conv2, self.bn2)]
        if isinstance(self.downsample, nn.Sequential):
            pairs.append((self.downsample[0], self.downsample[1]))
        return pairs


class CifarResNet(nn.Module):
    """ResNet with a 3x3 stem for small images; any height and width that survive two halvings.

    Args:
        parts: the layers to build it from.
        blocks: basic blocks in each of the three stages (depth = 6 * blocks + 2).
        in_channels: channels of the encoded image.
        classes: number of logits.
    """

    def __init__(self, parts: Parts, *, blocks: int, in_channels: int, classes: int) -> None:
        super().__init__()
        self.conv1 = parts.convolution(in_channels, WIDTHS[0], 3, 1)
        self.bn1 = parts.norm(WIDTHS[0])
        self.act = parts.activation()
        self.layer1 = _stage(parts, blocks, WIDTHS[0], WIDTHS[0], stride=1)
        self.layer2 = _stage(parts, blocks, WIDTHS[0], WIDTHS[1], stride=2)
        self.layer3 = _stage(parts, blocks, WIDTHS[1], WIDTHS[2], stride=2)
        self.fc = parts.head(WIDTHS[2], classes)

    def forward(self, encoded: Tensor) -> Tensor:
        """Encoded images to logits."""
        features = self.act(self.bn1(self.conv1(encoded)))
        logits: Tensor = self.fc(self.layer3(self.layer2(self.layer1(features))))
        return logits

    def normed(self) -> list[tuple[nn.Module, nn.Module]]:
        """The stem; blocks know of their own."""
        return [(self.conv1, self.bn1)]


def _stage(parts: Parts, blocks: int, in_channels: int, out_channels: int, *, stride: int) -> nn.Sequential:
    first = BasicBlock(parts, in_channels, out_channels, stride)
    return nn.Sequential(first, *(BasicBlock(parts, out_channels, out_channels, 1) for _ in range(blocks - 1)))


for _depth in (8, 20, 32, 44, 56, 110):
    register_twins(
        f"resnet{_depth}",
        partial(CifarResNet, blocks=(_depth - 2) // 6),
        Layout(first="conv1", last="fc", norm="bn1", filters=WIDTHS[0]),
    )
