"""Building a B-cosified network from what a card says, with weights yet to be loaded."""

import math
import sys

import torch
from torch import nn

from robustbench_bcos.core.adapted import copied
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.model_zoo import CLIP, LIBRARIES
from robustbench_bcos.model_zoo.architectures import build_architecture
from robustbench_bcos.model_zoo.bcos.layers import LogitLayer, learn_exponents
from robustbench_bcos.model_zoo.bcosify.convert import check_convertible, convert_layers, settle
from robustbench_bcos.model_zoo.bcosify.image_layers import Layer, replace_weight
from robustbench_bcos.model_zoo.bcosify.network import BcosifiedNetwork
from robustbench_bcos.model_zoo.cards import BcosifiedSpec, ModelSpec
from robustbench_bcos.model_zoo.sources.library import library_of
from robustbench_bcos.model_zoo.zero_shot import ZeroShotNetwork

PLUGIN = "robustbench_bcos_plugin_"


def build_bcosified(spec: ModelSpec) -> BcosifiedNetwork:
    """The network of a card or recipe with the table ``bcosified``.

    Raises:
        RequestError: its architecture is not to be had.
    """
    assert spec.bcosified is not None
    network = _source(spec, spec.bcosified).eval()
    layers = dict(network.named_modules())
    for path in spec.bcosified.image_layers:
        layer = layers.get(path)
        if not isinstance(layer, Layer):
            raise RequestError(f"card {spec.name!r}: bcosified.image_layers names {path!r}, which is no layer of it")
        replace_weight(layer, torch.cat([layer.weight.detach()] * 2, dim=1))
    return converted(network, spec.bcosified)


def converted(network: nn.Module, spec: BcosifiedSpec) -> BcosifiedNetwork:
    """Convert a network, whose layers that take the image have been widened, in place."""
    check_convertible(network)
    network, rows = convert_layers(network, spec.b)
    settle(network, rows, spec)
    learn_exponents(network, spec.learn_b)
    return BcosifiedNetwork(network, LogitLayer(bias=spec.logit_bias or None))


def published_logit_bias(classes: int) -> float:
    """At which sigmoid gives 1 / classes."""
    return -math.log(classes - 1)


def built_here(architecture: str) -> bool:
    """Whether it is this package or a library that builds it, and not code of the user's own."""
    prefix, colon, _ = architecture.partition(":")
    return not colon or prefix in (CLIP, *LIBRARIES)


def _source(spec: ModelSpec, bcosified: BcosifiedSpec) -> nn.Module:
    prefix, colon, name = spec.architecture.partition(":")
    if not colon:
        return build_architecture(
            spec.architecture, in_channels=bcosified.channels, classes=spec.classes, arguments=spec.arguments
        )
    if prefix == CLIP and spec.texts is not None:
        # Imported on use: its models are made of what is built here.
        from robustbench_bcos.model_zoo.sources.clip import blank_tower

        prototypes = torch.ones(spec.classes, spec.texts.width)
        return ZeroShotNetwork(blank_tower(name), prototypes, scale=spec.texts.scale, bias=spec.texts.bias)
    if built_here(spec.architecture):
        return library_of(prefix).build(name.partition("@")[0], spec.arguments)
    return _of_plugin(spec, prefix, name)


def _of_plugin(spec: ModelSpec, module: str, name: str) -> nn.Module:
    """A network of the user's own code, which a card may name and only the user can have run."""
    stem = module.rpartition(".")[2]
    plugins = [loaded for key, loaded in sys.modules.items() if key.startswith(f"{PLUGIN}{stem}_")]
    make = getattr(plugins[-1], name, None) if plugins else None
    if not callable(make):
        raise RequestError(
            f"card {spec.name!r} is of a network that {spec.architecture} makes, and a card runs no code: give it with "
            f"--plugin {stem}.py"
        )
    made = copied(make) if isinstance(make, nn.Module) else make()
    if not isinstance(made, nn.Module):
        raise RequestError(f"{spec.architecture} gave {type(made).__name__}: it must give a torch.nn.Module")
    return made
