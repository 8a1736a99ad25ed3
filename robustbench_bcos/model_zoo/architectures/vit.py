"""Simple vision transformers (Beyer et al., 2022), with patches or a convolutional stem.

The stem of ViT-C (Xiao et al., 2021) replaces one encoder. Modules have the names they have in published checkpoints,
in which all tensors of a B-cos network are under ``0`` because its logit layer is ``1``.
"""

from collections import OrderedDict
from dataclasses import replace
from functools import partial
from typing import NamedTuple, cast

from torch import Tensor, nn

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.model_zoo.architectures.layers import LayerFactory
from robustbench_bcos.model_zoo.architectures.registry import KeyLayers, register_architecture
from robustbench_bcos.model_zoo.bcos.tokens import Attention, PositionCode

PATCH = 16
HEAD_FEATURES = 64


class ViTConfig(NamedTuple):
    """Width, depth and stem of a vision transformer."""

    width: int
    """Features of a token."""
    depth: int
    """Encoders."""
    stem: tuple[int, ...] = ()
    """Channels after each convolution of the stem, which halves height and width where it adds channels; if there is
    none, tokens are patches of 16x16 pixels."""


SIZES = {
    "simple_vit_ti": ViTConfig(192, 12),
    "simple_vit_s": ViTConfig(384, 12),
    "simple_vit_b": ViTConfig(768, 12),
    "simple_vit_l": ViTConfig(1024, 14),
    "vitc_ti": ViTConfig(192, 11, (24, 48, 96, 192)),
    "vitc_s": ViTConfig(384, 11, (48, 96, 192, 384)),
    "vitc_b": ViTConfig(768, 11, (64, 128, 128, 256, 256, 512)),
    "vitc_l": ViTConfig(1024, 13, (64, 128, 128, 256, 256, 512)),
}


class Embedding(nn.Module):
    """Encoded images to tokens, row by row: a stem or none, then a linear layer on patches."""

    def __init__(self, make: LayerFactory, config: ViTConfig, in_channels: int) -> None:
        super().__init__()
        self.conv_stem = _stem(make, in_channels, config.stem) if config.stem else None
        self.patch = 1 if config.stem else PATCH
        channels = config.stem[-1] if config.stem else in_channels
        self.linear = make.linear(channels * self.patch**2, config.width)

    def forward(self, encoded: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """(image, token, feature), and the rows and columns the tokens stand in.

        Raises:
            RequestError: patches would not cover the images.
        """
        features = encoded if self.conv_stem is None else self.conv_stem(encoded)
        rows, columns = (self._patches(pixels) for pixels in features.shape[2:])
        cut = features.unflatten(3, (columns, self.patch)).unflatten(2, (rows, self.patch))
        # Values of a patch are in order of row, column, channel.
        tokens: Tensor = self.linear(cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2))
        return tokens, (rows, columns)

    def _patches(self, pixels: int) -> int:
        if pixels == 0 or pixels % self.patch:
            raise RequestError(
                f"an image has {pixels} pixels in height or width, expected a multiple of {self.patch}: "
                "crop or resize it, or choose vitc instead of simple_vit"
            )
        return pixels // self.patch


def _stem(make: LayerFactory, in_channels: int, widths: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, width in zip((in_channels, *widths), widths, strict=False):
        stride = 2 if width > before else 1
        layers += [make.convolution(before, width, 3, stride, bias=True), make.norm(width), make.activation()]
    return nn.Sequential(*layers)


class FeedForward(nn.Module):
    """Norm, then a perceptron with four times as many hidden features, on each token."""

    def __init__(self, make: LayerFactory, features: int) -> None:
        super().__init__()
        layers = OrderedDict(
            norm=make.token_norm(features),
            linear1=make.linear(features, 4 * features),
            act=make.activation(),
            linear2=make.linear(4 * features, features),
        )
        self.net = nn.Sequential(layers)

    def forward(self, tokens: Tensor) -> Tensor:
        """The residual."""
        residual: Tensor = self.net(tokens)
        return residual


class Encoder(nn.Module):
    """Attention, then a perceptron, each added to its input."""

    def __init__(self, make: LayerFactory, features: int) -> None:
        super().__init__()
        out = make.linear(features, features, bias=False)
        self.attn = Attention(make.token_norm(features), out, features=features, heads=features // HEAD_FEATURES)
        self.ff = FeedForward(make, features)

    def forward(self, tokens: Tensor) -> Tensor:
        """Add both residuals."""
        tokens = tokens + self.attn(tokens)
        added: Tensor = tokens + self.ff(tokens)
        return added


class SimpleViT(nn.Module):
    """A vision transformer without class token, whose position code is a constant and follows the image's size.

    Args:
        make: makes the layers to build it from.
        config: features, number of encoders and stem.
        in_channels: channels of the encoded image.
        classes: number of logits.

    Attributes:
        last_per_token: whether the last layers give logits of each token, of which the mean is taken, and not logits of
            the mean token.
    """

    last_per_token = False

    def __init__(self, make: LayerFactory, *, config: ViTConfig, in_channels: int, classes: int) -> None:
        super().__init__()
        self.to_patch_embedding = Embedding(make, config, in_channels)
        self.positional_embedding = PositionCode()
        self.transformer = nn.Sequential(
            OrderedDict((f"encoder_{index}", Encoder(make, config.width)) for index in range(config.depth))
        )
        self.linear_head = nn.Sequential(
            OrderedDict(norm=make.token_norm(config.width), linear=make.linear(config.width, classes))
        )

    def forward(self, encoded: Tensor) -> Tensor:
        """Encoded images to logits; for a B-cos network the logit layer is still to follow."""
        tokens, grid = self.to_patch_embedding(encoded)
        tokens = self.transformer(self.positional_embedding(tokens, grid))
        if self.last_per_token:
            return cast(Tensor, self.linear_head(tokens)).mean(dim=1)
        logits: Tensor = self.linear_head(tokens.mean(dim=1))
        return logits


def simple_vit(make: LayerFactory, *, config: ViTConfig, in_channels: int, classes: int) -> nn.Module:
    """A vision transformer, with its logit layer if it is a B-cos network."""
    network = SimpleViT(make, config=config, in_channels=in_channels, classes=classes)
    return network if make.logit_layer is None else nn.Sequential(network, make.logit_layer)


def key_layers(config: ViTConfig) -> KeyLayers:
    """Of the conventional network."""
    if config.stem:
        return KeyLayers(first="to_patch_embedding.conv_stem.0", last="linear_head.linear", filters=config.stem[0])
    return KeyLayers(
        first="to_patch_embedding.linear", last="linear_head.linear", filters=config.width, patch=PATCH * PATCH
    )


for _name, _config in SIZES.items():
    _plain = key_layers(_config)
    register_architecture(
        _name,
        partial(simple_vit, config=_config),
        _plain,
        bcos_key_layers=replace(_plain, first=f"0.{_plain.first}", last=f"0.{_plain.last}"),
        conventional={"norm": "layer", "activation": nn.GELU},
        bcos={"norm": "layer"},
        fixed=("norm", "norm_affine"),
    )
