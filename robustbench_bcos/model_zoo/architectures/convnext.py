"""ConvNeXts (Liu et al., 2022): four stages of blocks of one depthwise and two pointwise convolutions.

Modules have the names they have in published checkpoints, which number the layers of conventional and B-cos networks
differently. A conventional network averages over positions before the last norm, a B-cos network after classifying each
position. Stochastic depth is left out, because it is inactive in evaluation.
"""

from collections import OrderedDict
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.model_zoo.architectures.layers import LayerFactory
from robustbench_bcos.model_zoo.architectures.registry import KeyLayers, register_architecture

LAYER_SCALE = 1e-6
"""Initial scale of the residuals."""
NORM_EPSILON = 1e-6

SMALLEST = 32
"""Smallest height and width: the stem and three stages reduce it to one position."""


class ConvNeXtConfig(NamedTuple):
    """Width and depths of a ConvNeXt."""

    width: int
    """Channels of the first stage; each further one has twice as many."""
    blocks: tuple[int, int, int, int]


SIZES = {
    "atto": ConvNeXtConfig(40, (2, 2, 6, 2)),
    "tiny": ConvNeXtConfig(96, (3, 3, 9, 3)),
    "small": ConvNeXtConfig(96, (3, 3, 27, 3)),
    "base": ConvNeXtConfig(128, (3, 3, 27, 3)),
    "large": ConvNeXtConfig(192, (3, 3, 27, 3)),
}


class Block(nn.Module):
    """A 7x7 depthwise convolution, a norm, and a perceptron with four times as many hidden channels."""

    def __init__(self, make: LayerFactory, channels: int) -> None:
        super().__init__()
        depthwise = make.convolution(channels, channels, 7, groups=channels, bias=True)
        norm = make.norm(channels)
        widen, narrow = make.pointwise(channels, 4 * channels), make.pointwise(4 * channels, channels)
        if make.bcos:
            self.block = _numbered({0: depthwise, 1: norm, 2: widen, 3: narrow})
        else:
            self.block = _numbered({0: depthwise, 2: norm, 3: widen, 4: make.activation(), 5: narrow})
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
        make: makes the layers to build it from.
        config: width and number of blocks.
        in_channels: channels of the encoded image.
        classes: number of logits.
    """

    def __init__(self, make: LayerFactory, *, config: ConvNeXtConfig, in_channels: int, classes: int) -> None:
        super().__init__()
        widths = [config.width * 2**stage for stage in range(len(config.blocks))]
        stem = [make.convolution(in_channels, config.width, 4, 4, padding=0, bias=True), make.norm(config.width)]
        layers = stem if make.bcos else [nn.Sequential(*stem)]
        for width, blocks in zip(widths, config.blocks, strict=True):
            layers.append(nn.Sequential(*(Block(make, width) for _ in range(blocks))))
            if width < widths[-1]:
                halve = make.convolution(width, 2 * width, 2, 2, padding=0, bias=True)
                layers.append(nn.Sequential(make.norm(width), halve))
        self.features = nn.Sequential(*layers)
        norm, head = make.norm(widths[-1]), make.head(widths[-1], classes)
        self.avgpool = nn.Identity() if make.bcos else nn.AdaptiveAvgPool2d(1)
        self.classifier = _numbered({0: norm, 1 if make.bcos else 2: head})

    def forward(self, encoded: Tensor) -> Tensor:
        """Encoded images to logits.

        Raises:
            RequestError: the images are too small.
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
        """The stem; blocks list their own."""
        first = self.features[0]
        convolution, norm = list(first if isinstance(first, nn.Sequential) else self.features)[:2]
        return [(convolution, norm)]


def _numbered(layers: dict[int, nn.Module]) -> nn.Sequential:
    """Layers one after the other, under their numbers in checkpoints."""
    return nn.Sequential(OrderedDict((str(number), layer) for number, layer in layers.items()))


for _name, _config in SIZES.items():
    register_architecture(
        f"convnext_{_name}",
        partial(ConvNeXt, config=_config),
        KeyLayers(
            first="features.0.0", last="classifier.2", filters=_config.width, norm="features.0.1", image_norm="position"
        ),
        bcos_key_layers=KeyLayers(
            first="features.0", last="classifier.1", filters=_config.width, norm="features.1", image_norm="position"
        ),
        conventional={"norm": "position", "norm_epsilon": NORM_EPSILON, "activation": nn.GELU},
        bcos={"norm": "position", "norm_epsilon": NORM_EPSILON},
    )
