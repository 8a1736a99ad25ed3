"""Small networks of every kind that is converted, and some that nobody has seen."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import timm
import torch
import torch.nn.functional as F
import torchvision
from timm.layers import BatchNormAct2d, create_conv2d
from torch import Tensor, nn
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.resnet import BasicBlock, Bottleneck

from robustbench_bcos.model_zoo.architectures import build_architecture

CLASSES = 5
ENCODING = "normalize:0.5,0.4,0.3/0.2,0.3,0.25"


class Kind(NamedTuple):
    build: Callable[[], nn.Module]
    pixels: int
    channels: int = 3
    constants: tuple[str, ...] = ()
    """That are kept, and make up part of the logit."""


class Perceptron(nn.Module):
    """Its first layer takes the pixels of a channel one after another."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3 * 16, 12)
        self.norm = nn.BatchNorm1d(12)
        self.last = nn.Linear(12, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(F.hardswish(self.norm(self.first(images.flatten(1)))))


class HandMade(nn.Module):
    """Functions in place of modules, attention by hand, a gate, a norm without torch's help, and a position code."""

    def __init__(self) -> None:
        super().__init__()
        self.shuffle = nn.PixelUnshuffle(2)
        self.stem = nn.Conv2d(12, 8, 3, padding=1, padding_mode="reflect")
        self.qkv = nn.Linear(8, 24)
        self.out = nn.Linear(8, 8)
        self.gate = nn.Linear(8, 8)
        self.code = nn.Parameter(torch.randn(1, 16, 8))
        self.scale = nn.Parameter(torch.rand(8) + 0.5)
        self.last = nn.Linear(8, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        tokens = F.silu(self.stem(self.shuffle(images))).flatten(2).transpose(1, 2) + self.code
        centred = tokens - tokens.mean(-1, keepdim=True)
        normed = centred / torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + 1e-5) * self.scale
        queries, keys, values = self.qkv(normed).chunk(3, dim=-1)
        shares = (queries @ keys.transpose(1, 2) / math.sqrt(8)).softmax(dim=-1)
        tokens = tokens + self.out(shares @ values)
        tokens = tokens * torch.sigmoid(self.gate(tokens.mean(1, keepdim=True)))
        return self.last(F.gelu(tokens, approximate="tanh").mean(1))


class PaddedConv2d(nn.Conv2d):
    """Pads by more on the right, as TensorFlow does."""

    def forward(self, input: Tensor) -> Tensor:
        return F.conv2d(F.pad(input, (0, 1, 0, 1)), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class Shared(nn.Module):
    """One convolution twice, one activation three times, two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3)
        self.again = nn.Conv2d(6, 6, 3, padding="same", dilation=2)
        self.alias = self.again
        self.tied = nn.Conv2d(6, 6, 3, padding=1)
        self.tied.weight = self.again.weight
        self.act = nn.ELU()
        self.last = nn.Conv2d(6, CLASSES, 1)

    def forward(self, images: Tensor) -> Tensor:
        features = self.act(self.stem(images))
        features = self.act(self.alias(features) + self.tied(features))
        return self.last(self.act(self.again(features))).amax(dim=(2, 3))


class Asking(nn.Module):
    """Asks its layers what they are."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3)
        self.last = nn.Linear(6, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        features = self.stem(images.to(self.stem.weight.dtype)).relu().mean(dim=(2, 3))
        return self.last(features.view(-1, self.last.in_features) * self.stem.out_channels)


class Encoder(nn.Module):
    """Torch's own transformer on grey images, with a class token."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 8, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu")
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.last = nn.Linear(8, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(images), -1, -1), tokens], dim=1)
        return self.last(self.encoder(tokens)[:, 0])


def _resnet(block: Any, **settings: Any) -> nn.Module:
    return torchvision.models.ResNet(block, [1, 1, 1, 1], num_classes=CLASSES, **settings)


def _convnext() -> nn.Module:
    settings = [CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)]
    return torchvision.models.ConvNeXt(settings, layer_scale=0.5, num_classes=CLASSES)


def _vit() -> nn.Module:
    made = torchvision.models.VisionTransformer(16, 4, 1, 2, 16, 32, num_classes=CLASSES)
    nn.init.normal_(made.heads.head.weight)
    nn.init.normal_(made.class_token)
    return made


def _vgg() -> nn.Module:
    features = torchvision.models.vgg.make_layers([4, "M", 8, "M"], batch_norm=True)
    return nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(8, CLASSES))


def _padded() -> nn.Module:
    depthwise = PaddedConv2d(6, 6, 2, 2, groups=6)
    return nn.Sequential(
        PaddedConv2d(3, 6, 2), nn.ReLU6(), depthwise, nn.GroupNorm(2, 6), nn.Flatten(), nn.LazyLinear(CLASSES)
    )


def _lazy(build: Callable[[], nn.Module], shape: tuple[int, ...]) -> nn.Module:
    network = build()
    network(torch.zeros(2, *shape))
    return network


def _timm(name: str, **settings: Any) -> nn.Module:
    return timm.create_model(name, num_classes=CLASSES, **settings)


def _same() -> nn.Module:
    """As in EfficientNet-Lite: TensorFlow's padding, norms with the activation in them."""
    return nn.Sequential(
        create_conv2d(3, 8, 3, stride=2, padding="same"),
        BatchNormAct2d(8, act_layer=nn.ReLU6),
        create_conv2d(8, 8, 5, stride=2, padding="same", depthwise=True),
        BatchNormAct2d(8, apply_act=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, CLASSES),
    )


def _of_zoo(name: str, **arguments: Any) -> nn.Module:
    return build_architecture(name, in_channels=3, classes=CLASSES, arguments=arguments)


KINDS = {
    "resnet": Kind(lambda: _resnet(BasicBlock), 32),
    "resnext": Kind(lambda: _resnet(Bottleneck, groups=4, width_per_group=2), 32),
    "densenet": Kind(lambda: torchvision.models.DenseNet(4, (2, 1), 8, num_classes=CLASSES), 32),
    "vgg": Kind(_vgg, 16),
    "convnext": Kind(_convnext, 16),
    "mobilenet": Kind(lambda: torchvision.models.mobilenet_v2(num_classes=CLASSES, width_mult=0.1), 32),
    "squeeze-and-excitation": Kind(
        lambda: torchvision.models.mobilenet_v3_small(num_classes=CLASSES, width_mult=0.1), 32
    ),
    "vit": Kind(_vit, 16, constants=("class_token", "encoder.pos_embedding")),
    "swin": Kind(
        lambda: torchvision.models.SwinTransformer([4, 4], 8, [1, 1], [2, 2], [2, 2], num_classes=CLASSES), 16
    ),
    "timm-same": Kind(_same, 16),
    "timm-vit": Kind(
        lambda: _timm("vit_tiny_patch16_224", img_size=32, embed_dim=24, depth=1),
        32,
        constants=("cls_token", "pos_embed"),
    ),
    "timm-convnextv2": Kind(
        lambda: _timm("convnextv2_atto", dims=(8, 8, 8, 8), depths=(1, 1, 1, 1)),
        32,
        constants=tuple(f"stages.{n}.blocks.0.mlp.grn" for n in range(4)),
    ),
    "zoo-resnet": Kind(lambda: _of_zoo("resnet8"), 8),
    "zoo-densenet": Kind(lambda: _of_zoo("densenet52_12"), 8),
    "zoo-simple-vit": Kind(lambda: _of_zoo("simple_vit_ti"), 16, constants=("positional_embedding",)),
    "perceptron": Kind(Perceptron, 4),
    "hand-made": Kind(HandMade, 8, constants=("code",)),
    "padded": Kind(lambda: _lazy(_padded, (3, 8, 8)), 8),
    "shared": Kind(Shared, 12),
    "asking": Kind(Asking, 8),
    "encoder": Kind(Encoder, 8, channels=1, constants=("token",)),
}


def make(kind: Kind) -> nn.Module:
    """A network with biases, statistics and scales as training leaves them, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = kind.build().eval()
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                assert module.running_mean is not None
                assert module.running_var is not None
                nn.init.normal_(module.running_mean)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
                nn.init.uniform_(module.weight, 0.5, 1.5)
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)
            bias = module._parameters.get("bias")
            if bias is not None:
                nn.init.normal_(bias, std=0.3)
    return network


def images_of(kind: Kind, count: int = 3) -> Tensor:
    return torch.rand(count, kind.channels, kind.pixels, kind.pixels, generator=torch.Generator().manual_seed(1))
