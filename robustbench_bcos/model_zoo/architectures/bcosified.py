"""Published B-cosified networks (Arya et al., 2024): torchvision's and simple vision transformers, converted.

The former have pools of means and class maps; the last layer of the latter takes each token. They are built by the
conversion itself, of this package's networks of the same shape. Their files name the modules of sequences by number, so
that names are read by the place of a module. What they take is the normalised image and its negative.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache, partial

import torch
from torch import Tensor, nn

from robustbench_bcos.model_zoo.architectures.registry import ARCHITECTURES, Architecture, KeyLayers, build_architecture
from robustbench_bcos.model_zoo.architectures.vit import SIZES, SimpleViT, key_layers
from robustbench_bcos.model_zoo.cards import BcosifiedSpec, EncodingSpec

PREFIX = "bcosified_"

SOURCES = {
    "resnet18": KeyLayers(first="conv1", last="fc", filters=64),
    "resnet50": KeyLayers(first="conv1", last="fc", filters=64),
    "densenet121": KeyLayers(first="features.conv0", last="classifier", filters=64),
    **{name: key_layers(config) for name, config in SIZES.items()},
}
"""What is converted."""

ENCODING = EncodingSpec(kind="normalize_add_inverse", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def build(*, source: str, in_channels: int, classes: int, b: float = 2.0, logit_bias: float | None = None) -> nn.Module:
    """The converted network, with weights yet to be loaded."""
    # Imported on use: it builds architectures.
    from robustbench_bcos.model_zoo.bcosify.build import converted, published_logit_bias

    network = build_architecture(source, in_channels=in_channels, classes=classes, arguments={})
    if isinstance(network, SimpleViT):
        network.last_per_token = True
    bias = published_logit_bias(classes) if logit_bias is None else logit_bias
    return converted(network.eval(), BcosifiedSpec(weights="raw", b=b, max_pools="averaged", logit_bias=bias))


def rename(tensors: Mapping[str, Tensor], *, source: str) -> dict[str, Tensor]:
    """Tensors under the names they have here; a name that is none of the network's stays as it is."""
    # To build a network takes a second, and every architecture is asked where a file fits none.
    if not any(name.endswith(f"{SOURCES[source].last}.linear.weight") for name in tensors):
        return dict(tensors)
    return placed(tensors, _empty(source))


@cache
def _empty(source: str) -> nn.Module:
    with torch.device("meta"):
        return build(source=source, in_channels=6, classes=2)


def placed(tensors: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Tensors of a published file under the names of a B-cosified network: modules of sequences are numbered there."""
    return {_renamed(name, network): tensor for name, tensor in tensors.items()}


def _renamed(name: str, network: nn.Module) -> str:
    parts = name.removeprefix("layers.").split(".")
    module, found = network.get_submodule("layers"), ["layers"]
    for part in parts[:-1]:
        children = dict(module.named_children())
        # A sequence may have numbers of its own for names, which do not begin with 0.
        numbered = isinstance(module, nn.Sequential) or part not in children
        if numbered and part.isdigit() and int(part) < len(children):
            part = list(children)[int(part)]
        if part not in children:
            return name
        module = children[part]
        found.append(part)
    return ".".join([*found, parts[-1]])


for _source, _plain in SOURCES.items():
    _architecture = Architecture(
        build=partial(build, source=_source),
        arguments=("b", "logit_bias"),
        key_layers=replace(_plain, first=f"layers.{_plain.first}", last=f"layers.{_plain.last}"),
        family="bcos",
        encoding=ENCODING,
        rename=partial(rename, source=_source),
    )
    ARCHITECTURES.register(f"{PREFIX}{_source}", _architecture)
