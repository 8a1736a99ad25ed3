"""Classifiers of other libraries: built by the library, with weights read as data and its own normalisation."""

import os
import re
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.framing import Framing
from robustbench_bcos.model_zoo.checkpoints.assign import assign_weights
from robustbench_bcos.model_zoo.checkpoints.layouts import read_checkpoint
from robustbench_bcos.model_zoo.classifier import ImageClassifier, freeze
from robustbench_bcos.model_zoo.digests import sha256_of
from robustbench_bcos.model_zoo.encodings import Normalize, parse_encoding
from robustbench_bcos.model_zoo.foreign import check_installed
from robustbench_bcos.model_zoo.sources.model import UNKNOWN, Model, ModelSource, WeightsFile, as_text, state_digest

RANDOM = "none"
"""Tag of random weights."""

FORCED = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
"""Environment variable of torch that overrides the argument ``weights_only`` of its callers."""

SEED = 0
"""Seed of random weights, which are the same on every call."""


class InputSpec(NamedTuple):
    """How a library prepares images for a network."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    framing: Framing


class Trained(NamedTuple):
    """A network with its trained weights."""

    network: nn.Module
    weights_sha256: str


class AbstractLibrary(ABC):
    """A library of image classifiers."""

    prefix: ClassVar[str]
    """Before the colon of a model's name."""

    @abstractmethod
    def check(self, name: str, tag: str) -> None:
        """Refuse a name, or a tag other than the empty one, that the library does not have.

        Raises:
            RequestError: there is no such name or tag, or the network does not classify images.
        """

    @abstractmethod
    def input_spec(self, name: str, tag: str) -> InputSpec:
        """How images are prepared for these weights, or for the library's default ones."""

    @abstractmethod
    def build(self, name: str, arguments: Mapping[str, Any]) -> nn.Module:
        """The network with weights drawn from torch's generator."""

    @abstractmethod
    def head(self, name: str) -> str:
        """Name of the tensor with a row for each class."""

    def arguments_of(self, name: str, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """Arguments of the builder inferred from a file's tensors: the number of classes."""
        head = tensors.get(self.head(name))
        return {} if head is None or head.dim() == 0 else {"num_classes": len(head)}

    @abstractmethod
    def trained(self, name: str, tag: str) -> Trained:
        """The network with these weights, from the library's own cache or downloaded into it.

        Raises:
            RequestError: they cannot be loaded or downloaded.
        """


@dataclass(frozen=True)
class LibraryModel(ModelSource):
    """``torchvision:NAME`` or ``timm:NAME``, with ``@`` and the name of the weights, or ``@none`` for random ones."""

    library: AbstractLibrary
    requested: str
    encoding: str | None = None
    """In place of what the library says."""

    @property
    def name(self) -> str:
        """As written in the request, also if the weights are the default ones."""
        return f"{self.library.prefix}:{self.requested}"

    @property
    def framing(self) -> Framing:
        """As the library prepares pictures for these weights."""
        return self.library.input_spec(*self._checked()).framing

    @property
    def dataset(self) -> str:
        """ImageNet: what libraries publish with its number of classes is trained on it."""
        return "imagenet"

    def load(self) -> Model:
        """Build the network, with weights from the library's cache, from the network, or random ones."""
        name, tag = self._checked()
        spec = self.library.input_spec(name, tag)
        if tag == RANDOM:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(SEED)
                network = self.library.build(name, {})
            trained, training = Trained(network, state_digest(network)), "random weights"
        else:
            trained, training = self.library.trained(name, tag), UNKNOWN
        architecture = f"{self.library.prefix}:{name}"
        return _model(self.name, architecture, trained, training, _encoded(trained.network, spec, self.encoding))

    def _checked(self) -> tuple[str, str]:
        name, _, tag = self.requested.partition("@")
        self.library.check(name, tag)
        return name, tag


@dataclass(frozen=True, kw_only=True)
class LibraryCheckpoint(WeightsFile):
    """A weights file for a network of a library, whose default weights say what the file does not."""

    library: AbstractLibrary
    requested: str
    """The library's name for the network."""

    @property
    def framing(self) -> Framing:
        """As the library prepares pictures for its default weights."""
        self.library.check(self.requested, "")
        return self.library.input_spec(self.requested, "").framing

    def load(self) -> Model:
        """Build the network with as many classes as the file has, and load it strictly."""
        self.library.check(self.requested, "")
        spec = self.library.input_spec(self.requested, "")
        checkpoint = read_checkpoint(self.file, ema=self.ema)
        if checkpoint.encoding is not None:
            spec = InputSpec(**checkpoint.encoding.constants, framing=spec.framing)
        tensors = {_modern(name): tensor for name, tensor in checkpoint.tensors.items()}
        architecture = f"{self.library.prefix}:{self.requested}"
        arguments = self.library.arguments_of(self.requested, tensors) | dict(self.arguments)
        with torch.random.fork_rng(devices=[]):
            network = self._build(architecture, arguments)
        assign_weights(network, _as_saved_by(network, tensors), self.file)
        trained = Trained(network, sha256_of(self.file))
        model = _model(self.name, architecture, trained, UNKNOWN, _encoded(network, spec, self.encoding))
        assumed = {"strides": architecture}
        if self.encoding is None and checkpoint.encoding is None:
            assumed["encoding"] = f"normalize of {self.library.prefix}'s own weights"
        return replace(model, assumed=as_text(assumed), arguments=arguments)

    def _build(self, architecture: str, arguments: Mapping[str, Any]) -> nn.Module:
        try:
            return self.library.build(self.requested, arguments)
        except (TypeError, RuntimeError) as error:
            raise RequestError(
                f"--architecture {architecture} cannot be built with {arguments} ({error}): give arguments it takes"
            ) from None


@contextmanager
def weights_only() -> Iterator[None]:
    """A context in which torch loads tensors only, whatever a library asks for: nothing in a file is executed."""
    before = os.environ.get(FORCED)
    os.environ[FORCED] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[FORCED]
        else:
            os.environ[FORCED] = before


def library_of(prefix: str) -> AbstractLibrary:
    """The library that names with this prefix belong to.

    Raises:
        RequestError: it is not installed.
    """
    # Imported on use: each takes seconds, and timm is optional.
    if prefix == "torchvision":
        from robustbench_bcos.model_zoo.sources.torchvision import Torchvision

        return Torchvision()
    check_installed(prefix)
    from robustbench_bcos.model_zoo.sources.timm import Timm

    return Timm()


def _model(name: str, architecture: str, trained: Trained, training: str, classifier: nn.Module) -> Model:
    # No image size: most of these networks take any, and the others raise when they are tried.
    return Model(
        name=name,
        family="conventional",
        architecture=architecture,
        training=training,
        weights_sha256=trained.weights_sha256,
        classifier=freeze(classifier),
    )


def _encoded(network: nn.Module, spec: InputSpec, encoding: str | None) -> nn.Module:
    return ImageClassifier(Normalize(spec.mean, spec.std) if encoding is None else parse_encoding(encoding), network)


def _modern(name: str) -> str:
    """The present name of a tensor: published DenseNets were saved when their layers' names had dots."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", name)


def _as_saved_by(network: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add what torch tolerates to be missing: counts of batches, which old versions did not save, and metadata."""
    state = network.state_dict()
    counts = {name: state[name] for name in state if name.endswith("num_batches_tracked")}
    whole = OrderedDict({**counts, **tensors})
    whole._metadata = state._metadata  # type: ignore[attr-defined]
    return whole
