"""The one skeleton of ConvNeXts (Liu et al., 2022): four stages of depthwise convolutions and two pointwise ones.

Names of modules are those of published checkpoints, in which the twins number the same layers differently; and the
conventional twin takes its mean over positions before the last norm, the B-cos twin after classifying all of them.
Stochastic depth, which evaluation has not, is left out.
"""

from collections import OrderedDict
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.model_zoo.architectures.layers import LayerFactory
from robustbench_bcos.model_zoo.architectures.registry import KeyLayers, register_twins

LAYER_SCALE = 1e-6
"""What residuals are multiplied with at first."""
NORM_EPSILON = 1e-6

SMALLEST = 32
"""Height and width that the stem and three stages reduce to one position."""


class Size(NamedTuple):
    """What the members of the family differ in."""

    width: int
    """Channels of the first stage; each further one has twice as many."""
    blocks: tuple[int, int, int, int]


SIZES = {
    "atto": Size(40, (2, 2, 6, 2)),
    "tiny": Size(96, (3, 3, 9, 3)),
    "small": Size(96, (3, 3, 27, 3)),
    "base": Size(128, (3, 3, 27, 3)),
    "large": Size(192, (3, 3, 27, 3)),
}


class Block(nn.Module):
    """A 7x7 depthwise convolution, a norm, and a perceptron with four times as many hidden channels."""

    def __init__(self, parts: LayerFactory, channels: int) -> None:
        super().__init__()
        depthwise = parts.convolution(channels, channels, 7, groups=channels, bias=True)
        norm = parts.norm(channels)
        widen, narrow = parts.pointwise(channels, 4 * channels), parts.pointwise(4 * channels, channels)
        if parts.bcos:
            self.block = _numbered({0: depthwise, 1: norm, 2: widen, 3: narrow})
        else:
            self.block = _numbered({0: depthwise, 2: norm, 3: widen, 4: parts.activation(), 5: narrow})
        self.layer_scale = nn.Parameter(torch.full((channels, 1, 1), LAYER_SCALE))

    def forward(self, features: Tensor) -> Tensor:
        """Add the scaled residual to the input."""
        residual: Tensor = self.layer_scale * self.block(features)
        return features + residual

    def normed(self) -> list[tuple[nn.Module, nn.Module]]:
        """The depthwise convolution."""
        depthwise, norm = list(self.block)[:2]
        return [(depthwise, norm)]


class ConvNeXt(nn.Module):
    """ConvNeXt for images of at least 32x32 pixels.

    Args:
        parts: the layers to build it from.
        size: width and number of blocks.
        in_channels: channels of the encoded image.
        classes: number of logits.
    """

    def __init__(self, parts: LayerFactory, *, size: Size, in_channels: int, classes: int) -> None:
        super().__init__()
        widths = [size.width * 2**stage for stage in range(len(size.blocks))]
        stem = [parts.convolution(in_channels, size.width, 4, 4, padding=0, bias=True), parts.norm(size.width)]
        layers = stem if parts.bcos else [nn.Sequential(*stem)]
        for width, blocks in zip(widths, size.blocks, strict=True):
            layers.append(nn.Sequential(*(Block(parts, width) for _ in range(blocks))))
            if width < widths[-1]:
                halve = parts.convolution(width, 2 * width, 2, 2, padding=0, bias=True)
                layers.append(nn.Sequential(parts.norm(width), halve))
        self.features = nn.Sequential(*layers)
        norm, head = parts.norm(widths[-1]), parts.head(widths[-1], classes)
        self.avgpool = nn.Identity() if parts.bcos else nn.AdaptiveAvgPool2d(1)
        self.classifier = _numbered({0: norm, 1 if parts.bcos else 2: head})

    def forward(self, encoded: Tensor) -> Tensor:
        """Encoded images to logits.

        Raises:
            RequestError: nothing would be left of the images.
        """
        height, width = encoded.shape[2:]
        if min(height, width) < SMALLEST:
            raise RequestError(
                f"images have {height}x{width} pixels, expected at least {SMALLEST}x{SMALLEST} for a ConvNeXt: "
                "enlarge them"
            )
        logits: Tensor = self.classifier(self.avgpool(self.features(encoded)))
        return logits

    def normed(self) -> list[tuple[nn.Module, nn.Module]]:
        """The stem; blocks know of their own."""
        first = self.features[0]
        convolution, norm = list(first if isinstance(first, nn.Sequential) else self.features)[:2]
        return [(convolution, norm)]


def _numbered(layers: dict[int, nn.Module]) -> nn.Sequential:
    """Layers one after the other, under their numbers in checkpoints."""
    return nn.Sequential(OrderedDict((str(number), layer) for number, layer in layers.items()))


for _name, _size in SIZES.items():
    register_twins(
        f"convnext_{_name}",
        partial(ConvNeXt, size=_size),
        KeyLayers(
            first="features.0.0", last="classifier.2", filters=_size.width, norm="features.0.1", image_norm="position"
        ),
        bcos_layout=KeyLayers(
            first="features.0", last="classifier.1", filters=_size.width, norm="features.1", image_norm="position"
        ),
        conventional={"norm": "position", "norm_epsilon": NORM_EPSILON, "activation": nn.GELU},
        bcos={"norm": "position", "norm_epsilon": NORM_EPSILON},
    )
