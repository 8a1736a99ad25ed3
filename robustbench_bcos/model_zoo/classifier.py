"""From images in [0, 1] to logits: an encoding and a network in one module."""

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import nn

from robustbench_bcos.core.adapted import made_parameters, modules_of, to_evaluation
from robustbench_bcos.core.types import Images, Logits
from robustbench_bcos.model_zoo.architectures import build_architecture
from robustbench_bcos.model_zoo.cards import ModelSpec
from robustbench_bcos.model_zoo.encodings import ENCODINGS, AbstractEncoding
from robustbench_bcos.model_zoo.zero_shot import ZeroShotNetwork

M = TypeVar("M", bound=nn.Module)


class ImageClassifier(nn.Module):
    """A network behind its encoding. Checkpoints hold the network alone.

    Attributes:
        assumed: what had to be assumed of a weights file, where :func:`load_model` read one; as a row has it.
        alternatives: classifiers of the same weights with something else assumed, by what to state for them.
    """

    def __init__(self, encoding: AbstractEncoding, network: nn.Module) -> None:
        super().__init__()
        self.encoding = encoding
        self.network = network
        self.assumed = ""
        self.alternatives: Mapping[str, Callable[[], nn.Module]] = {}

    def forward(self, images: Images) -> Logits:
        """Images in [0, 1] to logits."""
        logits: torch.Tensor = self.network(self.encoding(images))
        return logits


def network_of(model: nn.Module) -> nn.Module:
    """The network behind the encoding, or the whole model where it has none of ours."""
    return model.network if isinstance(model, ImageClassifier) else model


def build_classifier(spec: ModelSpec) -> ImageClassifier:
    """The model of a card or recipe, with weights yet to be loaded or trained.

    Raises:
        RequestError: unknown architecture or argument.
    """
    encoding = ENCODINGS[spec.encoding.kind](**spec.encoding.constants)
    # torch's layers draw initial values that will be replaced: leave the caller's random state unchanged.
    with torch.random.fork_rng(devices=[]):
        if spec.bcosified is not None:
            # Imported on use: it is built of sources, which make classifiers.
            from robustbench_bcos.model_zoo.bcosify.build import build_bcosified

            return ImageClassifier(encoding, build_bcosified(spec))
        network = build_architecture(
            spec.architecture,
            in_channels=encoding.channels,
            classes=spec.classes if spec.texts is None else spec.texts.width,
            arguments=spec.arguments,
        )
    if spec.texts is not None:
        # Features of the texts are weights, too.
        prototypes = torch.ones(spec.classes, spec.texts.width)
        network = ZeroShotNetwork(network, prototypes, scale=spec.texts.scale, bias=spec.texts.bias)
    return ImageClassifier(encoding, network)


def encoding_of(model: nn.Module) -> str:
    """The name of a model's encoding; empty if the model is not an ImageClassifier."""
    if not isinstance(model, ImageClassifier):
        return ""
    return next((name for name in ENCODINGS if ENCODINGS[name] is type(model.encoding)), "")


def freeze(model: M) -> M:
    """Put a model into evaluation mode for good: no dropout, running statistics, no gradients for parameters."""
    for module in modules_of(model):
        to_evaluation(module)
        # One by one: as a whole, compiled modules of TorchScript refuse it.
        for parameter in made_parameters(module):
            parameter.requires_grad_(False)
    return model
