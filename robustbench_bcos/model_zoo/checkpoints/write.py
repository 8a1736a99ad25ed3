"""Writing a network's weights as safetensors."""

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save
from torch import nn

from robustbench_bcos.core.disk import write_bytes
from robustbench_bcos.model_zoo.bcos.raw import RAW, weights_of
from robustbench_bcos.model_zoo.checkpoints.kind import KIND
from robustbench_bcos.model_zoo.digests import sha256_of


def write_weights(network: nn.Module, file: Path, *, half: bool = False) -> str:
    """Save a network's state as safetensors and return the file's SHA-256.

    Args:
        network: whose state to save.
        file: where to.
        half: round to half precision.

    Raises:
        RequestError: the disk is full, or the folder is not writable.
    """
    # Written here and not by safetensors, whose files no one else may read.
    kind = weights_of(network)
    facts = {KIND: kind} if kind == RAW else None
    return sha256_of(write_bytes(file, serialised(network, half=half, facts=facts)))


def serialised(network: nn.Module, *, half: bool = False, facts: Mapping[str, str] | None = None) -> bytes:
    """A network's state as the content of a safetensors file.

    Args:
        network: whose state to save.
        half: round to half precision.
        facts: for the file's header.
    """
    # Copies, because an exponent that layers share is one tensor under several names, which safetensors does not take.
    state = {name: tensor.cpu().contiguous().clone() for name, tensor in network.state_dict().items()}
    if half:
        state = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    return bytes(save(state, None if facts is None else dict(facts)))
