"""An architecture of one's own: two convolutions and a head, as ``two_layers`` and as ``bcos_two_layers``."""

from torch import nn

from robustbench_bcos.model_zoo.architectures.layers import LayerFactory
from robustbench_bcos.model_zoo.architectures.registry import KeyLayers, register_architecture


def two_layers(make: LayerFactory, *, in_channels: int, classes: int) -> nn.Module:
    return nn.Sequential(
        make.convolution(in_channels, 8, 3),
        make.norm(8),
        make.activation(),
        make.convolution(8, 16, 3, 2),
        make.norm(16),
        make.activation(),
        make.head(16, classes),
    )


register_architecture("two_layers", two_layers, KeyLayers(first="0", last="6", norm="1", filters=8))
