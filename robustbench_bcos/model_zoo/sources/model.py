"""A model that is ready to be attacked, and a source that loads one."""

import copy
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robustbench_bcos.core.adapted import Adapted, name_of
from robustbench_bcos.core.framing import Framing
from robustbench_bcos.core.training_loss import TrainingLoss
from robustbench_bcos.model_zoo.classifier import ImageClassifier, network_of
from robustbench_bcos.model_zoo.foreign import knows_no_texts

UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Model:
    """A frozen classifier and what a row of results says of it."""

    name: str
    family: str = UNKNOWN
    architecture: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Of the architecture, as a card has them."""
    training: str = UNKNOWN
    trained_with: TrainingLoss = TrainingLoss.CE
    weights_sha256: str
    classifier: nn.Module
    image_size: tuple[int, int] | None = None
    """Height and width of the images it was trained on, if known."""
    classes: int | None = None
    """Number of logits, if known without running it."""
    assumed: str = ""
    """What neither the weights nor anybody said of it, and had to be assumed: ``b=2 norm=batch-uncentred``."""
    alternatives: Mapping[str, Callable[[], nn.Module]] = field(default_factory=dict)
    """Classifiers of the same weights with something else assumed, by what to state for them."""
    fast_copy: nn.Module | None = None
    """Equal to the classifier up to rounding, and faster; attacks query it. ``None`` if there is no such copy."""
    attack_backend: str = ""
    """How the fast copy was made, in words."""
    texts: str = ""
    """Of a vision-language model: how many texts its classes are, and their digest."""

    @property
    def attack_model(self) -> nn.Module:
        """What attacks query: the fast copy if there is one, otherwise the classifier."""
        return self.classifier if self.fast_copy is None else self.fast_copy

    @property
    def loss(self) -> str:
        """The attack loss that ``--loss auto`` stands for."""
        return self.trained_with.attacked

    @property
    def parameters(self) -> int:
        """Number of trained values."""
        return sum(parameter.numel() for parameter in self.classifier.parameters())


class ModelSource(ABC):
    """A named model that has not been loaded yet."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The model's name in rows and tables."""

    @property
    def framing(self) -> Framing | None:
        """How pictures of any size become the model's images, if known."""
        return None

    @property
    def dataset(self) -> str | None:
        """The dataset whose classes the model tells apart, if known."""
        return None

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes in the order of the outputs, if they are stated."""
        return None

    @property
    def texts(self) -> tuple[str, ...] | None:
        """What images are compared with, in the order of the outputs, if classes are texts and have been stated."""
        return None

    def for_classes(self, names: Sequence[str]) -> "ModelSource":
        """The model for a dataset's classes: the same, unless its classes are texts that nobody has stated."""
        return self

    def for_texts(self, texts: Sequence[str]) -> "ModelSource":
        """The model with texts as its classes.

        Raises:
            RequestError: it knows no texts.
        """
        raise knows_no_texts(self.name)

    @abstractmethod
    def load(self) -> Model:
        """Read and check the weights.

        Raises:
            RequestError: there are no such weights, or they do not fit.
        """


@dataclass(frozen=True, kw_only=True)
class WeightsFile(ModelSource):
    """A weights file, which gives the model its name."""

    file: Path
    encoding: str | None = None
    """As on the command line, in place of what the file says."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Of the architecture, in place of what the tensors say."""
    ema: bool = False
    """Whether to take the moving average of the weights."""

    @property
    def name(self) -> str:
        """The file's name without its suffix."""
        return self.file.stem


@dataclass(frozen=True)
class LoadedModel(ModelSource):
    """A model in memory, as a source."""

    model: Model

    @property
    def name(self) -> str:
        """The model's own name."""
        return self.model.name

    def load(self) -> Model:
        """Return the model."""
        return self.model


def as_text(assumed: Mapping[str, str]) -> str:
    """What was assumed of a model, as its row has it."""
    return " ".join(f"{name}={value}" for name, value in assumed.items())


def own_model(name: str, classifier: nn.Module) -> Model:
    """A model of which only the code is known; ``--loss auto`` stands for ``ce``."""
    network = network_of(classifier)
    architecture = name_of(network.model if isinstance(network, Adapted) else network)
    model = Model(name=name, architecture=architecture, weights_sha256=state_digest(classifier), classifier=classifier)
    for path, part in classifier.named_modules():
        if isinstance(part, ImageClassifier) and part.assumed:
            others = {said: partial(_with_part, classifier, path, make) for said, make in part.alternatives.items()}
            # Nothing can be put in the place of what a function refers to.
            function = isinstance(classifier, Adapted) and not isinstance(classifier.model, nn.Module)
            return replace(model, assumed=part.assumed, alternatives={} if function else others)
    return model


def _with_part(classifier: nn.Module, path: str, make: Callable[[], nn.Module]) -> nn.Module:
    """The classifier, or a copy of it with another module in the place of one of its own."""
    if not path:
        return make()
    changed = copy.deepcopy(classifier)
    changed.set_submodule(path, make())
    return changed


def state_digest(module: nn.Module) -> str:
    """SHA-256 of a module's parameters and buffers, names included, and of what else its state has."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        _add(digest, name, value)
    return digest.hexdigest()


def _add(digest: "hashlib._Hash", name: str, value: object) -> None:
    if isinstance(value, tuple | list):  # As quantised layers keep their weights and biases.
        for number, part in enumerate(value):
            _add(digest, f"{name}.{number}", part)
    elif isinstance(value, torch.Tensor):
        tensor = value.dequantize() if value.is_quantized else value
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    else:
        digest.update(f"{name} {value!r}".encode())
