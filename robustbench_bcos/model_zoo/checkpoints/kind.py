"""What a file says of its weights that its tensors do not: their kind, and how to build their network."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from torch import nn

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.model_zoo.bcos.raw import RAW, weights_of

KIND = "bcos_weights"
"""Entry of a safetensors header: whether weights are raw or will be normalised."""

WRITER = "robustbench_bcos"
"""How the entry ``exported_by`` begins where architecture, arguments and encoding are meant as they are here."""


class Stated(NamedTuple):
    """How the network is built that a file has the weights of, as far as it is stated."""

    architecture: str | None = None
    encoding: str | None = None
    """As on the command line."""
    arguments: Mapping[str, Any] = {}
    """Of the architecture."""

    def completed_by(self, file: Path) -> "Stated":
        """With what the header of a file says, where it is about the same architecture and nothing else is stated.

        Raises:
            RequestError: the header is damaged.
        """
        header = _header(file)
        architecture = header.get("architecture")
        if not header.get("exported_by", "").startswith(WRITER) or self.architecture not in (None, architecture):
            return self
        try:
            arguments = dict(json.loads(header.get("arguments", "{}")))
        except (ValueError, TypeError):
            raise RequestError(f"weights {file} have a header that cannot be read: export them again") from None
        return Stated(architecture, self.encoding or header.get("encoding"), arguments | dict(self.arguments))


def check_kind(network: nn.Module, file: Path) -> None:
    """Refuse raw weights for B-cos layers that normalise theirs, and for conventional layers.

    Raises:
        RequestError: the file says that its weights are of another kind.
    """
    if _header(file).get(KIND) == RAW != weights_of(network):
        raise RequestError(
            f"weights {file} are raw ones of a B-cosified network, and these layers would normalise them: use the card "
            "that was written with them"
        )


def _header(file: Path) -> Mapping[str, str]:
    """Entries of a safetensors header; other files say nothing."""
    try:
        with safe_open(file, framework="pt") as opened:
            return opened.metadata() or {}
    except (SafetensorError, OSError):
        return {}
