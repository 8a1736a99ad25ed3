"""A model that is ready to be attacked, and one that has yet to be loaded."""

import hashlib
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import nn

from robustbench_bcos.model_zoo.classifier import ImageClassifier

UNKNOWN = "unknown"

Interpolation = Literal["bilinear", "bicubic"]


class Framing(NamedTuple):
    """How a picture of any size becomes an image for a model: resized, then the middle cropped out."""

    image_size: tuple[int, int]
    """Height and width of the middle."""
    resize: int | None
    """Pixels of the shorter side; ``None`` leaves it as it is."""
    interpolation: Interpolation


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
    twin: nn.Module | None = None
    """What attacks walk on: equal to the classifier up to rounding, and faster. ``None`` is the classifier itself."""
    search: str = ""
    """How the twin was made, in words."""

    @property
    def searched(self) -> nn.Module:
        """What attacks walk on."""
        return self.classifier if self.twin is None else self.twin

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


def own_model(name: str, classifier: nn.Module) -> Model:
    """A model of which nothing is known but its code; ``--loss auto`` means ``ce``."""
    network = classifier.network if isinstance(classifier, ImageClassifier) else classifier
    return Model(name, UNKNOWN, type(network).__name__, UNKNOWN, "ce", state_digest(classifier), classifier)


def state_digest(module: nn.Module) -> str:
    """SHA-256 of a module's parameters and buffers, names included."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
