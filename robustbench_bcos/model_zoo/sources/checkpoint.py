"""Weights in a file, and the architecture of this package that they were made with."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustbench_bcos.model_zoo.architectures import BCOS_PREFIX
from robustbench_bcos.model_zoo.checkpoints.load import load_checkpoint
from robustbench_bcos.model_zoo.digests import sha256_of
from robustbench_bcos.model_zoo.sources.model import UNKNOWN, Model


@dataclass(frozen=True)
class CheckpointModel:
    """A weights file and the architecture it was made with; what its tensors decide is read from them."""

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
        restored = load_checkpoint(
            self.file, self.architecture, encoding=self.encoding, arguments=self.arguments or {}, ema=self.ema
        )
        bcos = self.architecture.startswith(BCOS_PREFIX)
        return Model(
            self.name,
            "bcos" if bcos else "conventional",
            self.architecture,
            UNKNOWN,
            "bce" if bcos else "ce",
            sha256_of(self.file),
            restored.classifier,
            classes=restored.classes,
        )
