"""A weights file for an architecture of the registry."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustbench_bcos.model_zoo.architectures import ARCHITECTURES
from robustbench_bcos.model_zoo.checkpoints.load import load_checkpoint
from robustbench_bcos.model_zoo.digests import sha256_of
from robustbench_bcos.model_zoo.sources.model import Model, ModelSource, as_text


@dataclass(frozen=True)
class CheckpointModel(ModelSource):
    """A weights file and its architecture, whose arguments are inferred from the tensors."""

    file: Path
    architecture: str
    encoding: str | None = None
    """As on the command line; by default the file's own, ``add_inverse`` for six channels and ``none`` for three."""
    arguments: Mapping[str, Any] | None = None
    ema: bool = False
    """Whether to take the moving average of the weights."""

    @property
    def name(self) -> str:
        """The file's name without its suffix."""
        return self.file.stem

    def load(self) -> Model:
        """Read the tensors, infer the architecture's arguments, and load strictly."""
        loaded = load_checkpoint(
            self.file, self.architecture, encoding=self.encoding, arguments=self.arguments or {}, ema=self.ema
        )
        architecture = ARCHITECTURES[self.architecture]
        return Model(
            name=self.name,
            family=architecture.family,
            architecture=self.architecture,
            arguments=loaded.arguments,
            trained_with=architecture.loss,
            weights_sha256=sha256_of(self.file),
            classifier=loaded.classifier,
            classes=loaded.classes,
            assumed=as_text(loaded.assumed),
            alternatives=loaded.alternatives,
        )
