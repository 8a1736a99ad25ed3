"""What a file says of its weights that their names and shapes do not: whether they are raw or will be normalised."""

from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import nn

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.model_zoo.bcos.raw import RAW, weights_of

KIND = "bcos_weights"
"""Entry of a safetensors header."""


def check_kind(network: nn.Module, file: Path) -> None:
    """Refuse raw weights for B-cos layers that normalise theirs, and for conventional layers.

    Raises:
        RequestError: the file says that its weights are of another kind.
    """
    try:
        with safe_open(file, framework="pt") as opened:
            stated = (opened.metadata() or {}).get(KIND)
    except (SafetensorError, OSError):
        return  # Other files say nothing.
    if stated == RAW != weights_of(network):
        raise RequestError(
            f"weights {file} are raw ones of a B-cosified network, and these layers would normalise them: use the card "
            "that was written with them"
        )
