"""Models ready to be attacked, wherever they come from: the zoo, a checkpoint, one's own code."""

import hashlib
import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import nn

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.registry import unknown
from robustbench_bcos.model_zoo.architectures import ARCHITECTURES, BCOS_PREFIX, build_architecture
from robustbench_bcos.model_zoo.cards import Entry, Zoo
from robustbench_bcos.model_zoo.checkpoints import infer_arguments
from robustbench_bcos.model_zoo.classifier import ImageClassifier, build_classifier, freeze
from robustbench_bcos.model_zoo.encodings import ENCODINGS
from robustbench_bcos.model_zoo.weights import load_weights, read_weights, sha256_of

UNKNOWN = "unknown"


class Model(NamedTuple):
    """A frozen classifier and what a row of results says of it."""

    name: str
    family: str
    architecture: str
    training: str
    loss: Literal["bce", "ce"]
    """What ``--loss auto`` means for it."""
    weights_sha256: str
    classifier: nn.Module
    image_size: tuple[int, int] | None = None
    """Height and width it was made for, where that is known."""
    classes: int | None = None
    """Number of logits, where that is known without running it."""

    @property
    def parameters(self) -> int:
        """Number of trained values."""
        return sum(parameter.numel() for parameter in self.classifier.parameters())


@runtime_checkable
class ModelSource(Protocol):
    """A named model that has not been loaded yet."""

    @property
    def name(self) -> str:
        """What the model is called in rows and tables."""
        ...

    def load(self) -> Model:
        """Read and check the weights.

        Raises:
            RequestError: they cannot be had as asked.
        """
        ...


@dataclass(frozen=True)
class ZooModel:
    """A model with a card."""

    entry: Entry

    @property
    def name(self) -> str:
        """The card's name."""
        return self.entry.card.name

    def load(self) -> Model:
        """Build what the card says and load the weights it names."""
        card = self.entry.card
        classifier = build_classifier(card)
        tensors = read_weights(self.entry.weights_file, sha256=card.weights.sha256, kind=card.weights.format)
        load_weights(classifier.network, tensors, self.entry.weights_file)
        return Model(
            card.name,
            card.family,
            card.architecture,
            str(card.training),
            "ce" if card.loss == "ce" else "bce",
            card.weights.sha256,
            freeze(classifier),
            card.image_size,
            card.classes,
        )


@dataclass(frozen=True)
class CheckpointModel:
    """A weights file and the architecture it was made with; what its tensors decide is read from them."""

    file: Path
    architecture: str
    encoding: str | None = None
    """Name of the encoding; by default ``add_inverse`` for six input channels and ``none`` for three."""
    arguments: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        """The file's name without its suffix."""
        return self.file.stem

    def load(self) -> Model:
        """Read the tensors, infer the architecture's arguments, and load strictly."""
        if self.architecture not in ARCHITECTURES:
            raise unknown("architecture", self.architecture, ARCHITECTURES)
        tensors = read_weights(self.file)
        arguments = infer_arguments(self.architecture, tensors, dict(self.arguments or {}))
        in_channels, classes = arguments.pop("in_channels"), arguments.pop("classes")
        kind = self.encoding or ("add_inverse" if in_channels == 6 else "none")
        if kind == "normalize":
            raise RequestError("--encoding normalize needs a mean and a deviation: write a card for the weights")
        encoding = ENCODINGS[kind]()
        if encoding.channels != in_channels:
            raise RequestError(
                f"--encoding {kind} gives {encoding.channels} channels and the weights {self.file} take "
                f"{in_channels}: choose the encoding they were trained with"
            )
        network = build_architecture(self.architecture, in_channels=in_channels, classes=classes, arguments=arguments)
        load_weights(network, tensors, self.file)
        bcos = self.architecture.startswith(BCOS_PREFIX)
        return Model(
            self.name,
            "bcos" if bcos else "conventional",
            self.architecture,
            UNKNOWN,
            "bce" if bcos else "ce",
            sha256_of(self.file),
            freeze(ImageClassifier(encoding, network)),
            classes=classes,
        )


@dataclass(frozen=True)
class ImportedModel:
    """``module:callable``, which returns a ``torch.nn.Module`` from images in [0, 1] to logits.

    The module is looked up in the working folder too. This runs the user's own code, because the user asked for it.
    """

    name: str

    def load(self) -> Model:
        """Import, call and freeze."""
        module, _, attribute = self.name.partition(":")
        if not all(part.isidentifier() for part in module.split(".")):
            raise RequestError(f"--model {self.name} names no module before the colon: write my_package.nets:make, say")
        here = str(Path.cwd())
        if here not in sys.path:
            sys.path.insert(0, here)
        try:
            made = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise RequestError(
                f"--model {self.name} cannot be imported ({error}): give an importable module and a callable in it"
            ) from None
        if not callable(made):
            raise RequestError(
                f"--model {self.name} is of type {type(made).__name__}: it must be a torch.nn.Module or return one"
            )
        classifier = made if isinstance(made, nn.Module) else made()
        if not isinstance(classifier, nn.Module):
            raise RequestError(
                f"--model {self.name} returned {type(classifier).__name__}: it must return a torch.nn.Module"
            )
        return own_model(self.name, freeze(classifier))


def own_model(name: str, classifier: nn.Module) -> Model:
    """A model of which nothing is known but its code; ``--loss auto`` means ``ce``."""
    architecture = type(classifier).__name__
    return Model(name, UNKNOWN, architecture, UNKNOWN, "ce", state_digest(classifier), classifier)


def state_digest(module: nn.Module) -> str:
    """SHA-256 of a module's parameters and buffers, names included."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def find_models(pattern: str, zoo: Zoo) -> list[ModelSource]:
    """Sources for one ``--model``: a name, a glob over the zoo, or ``module:callable``.

    Raises:
        RequestError: nothing of that name.
    """
    if ":" in pattern:
        return [ImportedModel(pattern)]
    return [ZooModel(entry) for entry in zoo.matching(pattern)]


def load_model(
    name_or_path: str | Path,
    *,
    architecture: str | None = None,
    encoding: str | None = None,
    zoo: Path | None = None,
    **arguments: Any,  # noqa: ANN401 (an architecture's own arguments)
) -> nn.Module:
    """A frozen classifier from images in [0, 1] to logits.

    Args:
        name_or_path: a zoo name, ``module:callable``, or a weights file.
        architecture: what a weights file was made with.
        encoding: overrides the encoding read from a weights file.
        zoo: a folder with further cards.
        arguments: override what cannot be read from a weights file, such as ``b`` and ``norm``.

    Raises:
        RequestError: there is no such model, or its weights are not what they should be.
    """
    if architecture is not None:
        return CheckpointModel(Path(name_or_path), architecture, encoding, arguments).load().classifier
    if Path(name_or_path).is_file():
        raise RequestError(f"{name_or_path} is a file: name the architecture of the weights in it, bcos_resnet20, say")
    if encoding is not None or arguments:
        raise RequestError(
            f"encoding and arguments ({', '.join(arguments) or 'none'}) go with a weights file and its architecture: "
            f"model {name_or_path!r} has its own"
        )
    found = find_models(str(name_or_path), Zoo([zoo] if zoo else []))
    if len(found) > 1:
        raise RequestError(f"{name_or_path!r} names {len(found)} models: load one at a time")
    return found[0].load().classifier
