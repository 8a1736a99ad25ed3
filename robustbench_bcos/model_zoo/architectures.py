"""Architectures by name. A B-cos architecture has its conventional twin's name with the prefix ``bcos_``."""

import inspect
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor, nn

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.registry import Registry, unknown
from robustbench_bcos.model_zoo.bcos_layers import BcosConv2d, LogitLayer
from robustbench_bcos.model_zoo.norms import Affine, make_norm
from robustbench_bcos.model_zoo.resnet import CifarResNet, Parts

ARCHITECTURES: Registry[Callable[..., nn.Module]] = Registry("architecture")
"""Builders taking ``in_channels``, ``classes`` and the architecture's own keyword arguments."""

BCOS_PREFIX = "bcos_"


class PooledLinear(nn.Linear):
    """Conventional head: mean over positions, then a linear classifier."""

    def forward(self, input: Tensor) -> Tensor:
        """Feature maps to logits."""
        return super().forward(input.mean(dim=(2, 3)))


class PooledClassMaps(BcosConv2d):
    """B-cos head: classify every position, mean over positions, then temperature and bias."""

    def __init__(self, features: int, classes: int, logit_layer: LogitLayer, *, b: float, max_out: int) -> None:
        super().__init__(features, classes, b=b, max_out=max_out)
        self.logit_layer = logit_layer

    def forward(self, features: Tensor) -> Tensor:
        """Feature maps to logits."""
        logits: Tensor = self.logit_layer(super().forward(features).mean(dim=(2, 3)))
        return logits


def cifar_resnet(
    *, blocks: int, in_channels: int, classes: int, norm: str = "batch", norm_affine: Affine = "full"
) -> nn.Module:
    """Conventional CIFAR ResNet: ReLU, and a bias in norms and classifier."""
    parts = Parts(
        convolution=lambda i, o, k, s: nn.Conv2d(i, o, k, s, padding=k // 2, bias=False),
        norm=partial(make_norm, norm, norm_affine),
        activation=nn.ReLU,
        head=PooledLinear,
    )
    return CifarResNet(parts, blocks=blocks, in_channels=in_channels, classes=classes)


def bcos_cifar_resnet(
    *,
    blocks: int,
    in_channels: int,
    classes: int,
    b: float = 2.0,
    max_out: int = 1,
    norm: str = "batch-uncentred",
    norm_affine: Affine = "no-bias",
    logit_bias: float | None = None,
    temperature: float | None = None,
) -> nn.Module:
    """B-cos CIFAR ResNet: no activation, every convolution and the classifier B-cos.

    Args:
        blocks: basic blocks per stage.
        in_channels: channels of the encoded image.
        classes: number of logits.
        b: exponent of the B-cos transform.
        max_out: filters per output.
        norm: name of the normalisation.
        norm_affine: which affine parameters the norms have.
        logit_bias: added to all logits; by default -ln(classes - 1), at which sigmoid gives 1 / classes.
        temperature: divides the logits.
    """
    bias = -math.log(classes - 1) if logit_bias is None else logit_bias
    logit_layer = LogitLayer(temperature=temperature, bias=bias)
    parts = Parts(
        convolution=lambda i, o, k, s: BcosConv2d(i, o, k, s, padding=k // 2, b=b, max_out=max_out),
        norm=partial(make_norm, norm, norm_affine),
        activation=nn.Identity,
        head=lambda features, classes: PooledClassMaps(features, classes, logit_layer, b=b, max_out=max_out),
    )
    return CifarResNet(parts, blocks=blocks, in_channels=in_channels, classes=classes)


for _depth in (8, 20, 32, 44, 56):
    _blocks = (_depth - 2) // 6
    ARCHITECTURES.register(f"resnet{_depth}", partial(cifar_resnet, blocks=_blocks))
    ARCHITECTURES.register(f"{BCOS_PREFIX}resnet{_depth}", partial(bcos_cifar_resnet, blocks=_blocks))


def build_architecture(name: str, *, in_channels: int, classes: int, arguments: Mapping[str, Any]) -> nn.Module:
    """An architecture with uninitialised weights of its checkpoint's names and shapes.

    Raises:
        RequestError: unknown architecture, or an argument it does not take.
    """
    builder = ARCHITECTURES[name]
    taken = [key for key in inspect.signature(builder).parameters if key not in ("blocks", "in_channels", "classes")]
    for key in arguments:
        if key not in taken:
            raise RequestError(f"architecture {name!r} takes no argument {key!r}: it takes {', '.join(taken)}")
    affine = arguments.get("norm_affine", "full")
    if affine not in get_args(Affine):
        raise unknown("norm_affine", str(affine), get_args(Affine))
    try:
        return builder(in_channels=in_channels, classes=classes, **arguments)
    except TypeError as error:
        raise RequestError(f"architecture {name!r} cannot be built with {dict(arguments)}: {error}") from None


def initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Draw new weights in place: He et al. (2015) normal, fan out, for all filters; zero for biases of linear layers.

    The function of a B-cos layer does not depend on the scale of its filters, but its effective learning rate does.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        elif isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
