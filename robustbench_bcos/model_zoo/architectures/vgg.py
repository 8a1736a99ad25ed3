"""VGG networks (Simonyan and Zisserman, 2015) with norms.

The conventional classifier is three linear layers on a map of 7x7 positions. The B-cos classifier
slides the same three layers over the map, as convolutions, and averages their outputs over positions.
"""

from functools import partial
from itertools import pairwise

from torch import Tensor, nn

from robustbench_bcos.model_zoo.architectures.layers import LayerFactory, PooledClassMaps
from robustbench_bcos.model_zoo.architectures.registry import KeyLayers, register_architecture
from robustbench_bcos.model_zoo.bcos.layers import BcosConv2d, LogitLayer

MAP = 7
"""Height and width of the feature map that the classifier takes."""
HIDDEN = 4096
"""Features of the classifier's hidden layers in published networks."""


class LinearHead(nn.Sequential):
    """Conventional head: means over 7x7 parts of the map, then three linear layers with dropout between."""

    def __init__(self, features: int, classes: int, *, hidden: int = HIDDEN) -> None:
        super().__init__(
            nn.Linear(features * MAP * MAP, hidden),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(hidden, classes),
        )

    def forward(self, input: Tensor) -> Tensor:
        """Feature maps to logits."""
        features = nn.functional.adaptive_avg_pool2d(input, MAP).flatten(1)
        for layer in self:
            features = layer(features)
        return features


class ConvolutionalHead(nn.Sequential):
    """B-cos head: a 7x7 and a 1x1 convolution, then class maps."""

    def __init__(
        self,
        features: int,
        classes: int,
        logit_layer: LogitLayer,
        *,
        b: float,
        max_out: int,
        hidden: int = HIDDEN,
    ) -> None:
        super().__init__(
            BcosConv2d(features, hidden, MAP, padding=MAP // 2, b=b, max_out=max_out),
            BcosConv2d(hidden, hidden, b=b, max_out=max_out),
            PooledClassMaps(hidden, classes, logit_layer, b=b, max_out=max_out),
        )


class Vgg(nn.Module):
    """Stages of 3x3 convolutions, each ended by a pool that halves height and width.

    Args:
        make: makes the layers to build it from.
        stages: channels of each convolution of each stage.
        in_channels: channels of the encoded image.
        classes: number of logits.
    """

    def __init__(
        self, make: LayerFactory, *, stages: tuple[tuple[int, ...], ...], in_channels: int, classes: int
    ) -> None:
        super().__init__()
        self.features = nn.Sequential()
        channels = in_channels
        for stage in stages:
            for width in stage:
                self.features.extend(_unit(make, channels, width))
                channels = width
            self.features.append(make.pool(2, 2, 0))
        self.classifier = make.head(channels, classes)

    def forward(self, encoded: Tensor) -> Tensor:
        """Encoded images to logits."""
        logits: Tensor = self.classifier(self.features(encoded))
        return logits

    def normed(self) -> list[tuple[nn.Module, nn.Module]]:
        """Every convolution before the classifier: each is followed by its norm."""
        return [pair for pair in pairwise(self.features) if isinstance(pair[0], BcosConv2d | nn.Conv2d)]


def _unit(make: LayerFactory, in_channels: int, out_channels: int) -> list[nn.Module]:
    layers = [make.convolution(in_channels, out_channels, 3, bias=True), make.norm(out_channels)]
    activation = make.activation()
    # Layer numbers follow the checkpoints, in which B-cos networks have no entry for the missing activation.
    return layers if isinstance(activation, nn.Identity) else [*layers, activation]


VGG11 = ((64,), (128,), (256, 256), (512, 512), (512, 512))
"""Configuration A of the paper."""

register_architecture(
    "vgg11",
    partial(Vgg, stages=VGG11),
    KeyLayers(first="features.0", last="classifier.6", norm="features.1", filters=64),
    bcos_key_layers=KeyLayers(first="features.0", last="classifier.2", norm="features.1", filters=64),
    conventional={"head": LinearHead},
    bcos={"head": ConvolutionalHead},
)
