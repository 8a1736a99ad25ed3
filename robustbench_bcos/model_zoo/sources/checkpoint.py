"""Weights in a file, and the architecture of this package that they were made with."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.registry import unknown
from robustbench_bcos.model_zoo.architectures import ARCHITECTURES, BCOS_PREFIX, build_architecture
from robustbench_bcos.model_zoo.checkpoints import infer_arguments
from robustbench_bcos.model_zoo.classifier import ImageClassifier, freeze
from robustbench_bcos.model_zoo.encodings import ENCODINGS
from robustbench_bcos.model_zoo.sources.model import UNKNOWN, Model
from robustbench_bcos.model_zoo.weights import load_weights, read_weights, sha256_of


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
