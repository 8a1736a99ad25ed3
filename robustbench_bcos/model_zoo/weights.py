"""Weights are data, not programs: tensors are read, and nothing in a file is ever executed."""

from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from robustbench_bcos.core.disk import write_bytes
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.model_zoo.cards import WeightsFormat
from robustbench_bcos.model_zoo.digests import sha256_of as sha256_of
from robustbench_bcos.model_zoo.formats import Checkpoint, unpack
from robustbench_bcos.model_zoo.formats import Tensors as Tensors
from robustbench_bcos.model_zoo.weights_files import read_content

LISTED = 3
"""Tensors that a message names."""


class MisfitError(RequestError):
    """Tensors are not those of the architecture; ``finding`` is the message without its remedy."""

    def __init__(self, finding: str) -> None:
        self.finding = finding
        super().__init__(f"{finding}: choose the architecture they were made with")


def read_checkpoint(
    file: Path, *, sha256: str | None = None, kind: WeightsFormat | None = None, ema: bool = False
) -> Checkpoint:
    """The network's tensors in a weights file, and what else the file says of the network.

    Args:
        file: what to read.
        sha256: the digest the file must have.
        kind: how the file is laid out (:mod:`~robustbench_bcos.model_zoo.formats`); by default as it looks.
        ema: take the moving average of the weights in place of the last ones.

    Raises:
        RequestError: the file is unreadable, truncated, has another digest or layout, needs more than tensors and
            plain values, or holds values that are not finite real numbers.
    """
    found = sha256_of(file)
    if sha256 is not None and found != sha256:
        raise RequestError(f"weights {file} have SHA-256 {found}, expected {sha256}: get the file again")
    checkpoint = unpack(file, read_content(file), kind=kind, ema=ema)
    for name, tensor in checkpoint.tensors.items():
        _check_values(file, name, tensor)
    return checkpoint


def read_weights(
    file: Path, *, sha256: str | None = None, kind: WeightsFormat | None = None, ema: bool = False
) -> Tensors:
    """The tensors of :func:`read_checkpoint` by the names they have in the network, of the types they were saved in."""
    return read_checkpoint(file, sha256=sha256, kind=kind, ema=ema).tensors


def load_weights(network: nn.Module, tensors: Tensors, origin: object) -> None:
    """Copy tensors into a network that has exactly those names and shapes.

    Half and double precision are converted to the network's.

    Raises:
        RequestError: a tensor is missing, is not in the network, has another shape, or holds whole numbers in place
            of real ones.
    """
    state = network.state_dict()
    missing, surplus = sorted(state.keys() - tensors.keys()), sorted(tensors.keys() - state.keys())
    if missing or surplus:
        parts = [_listed("missing", missing, state), _listed("surplus", surplus, tensors)]
        raise MisfitError(f"weights {origin} do not fit the architecture: {'; '.join(part for part in parts if part)}")
    differing = [name for name in sorted(tensors) if tensors[name].shape != state[name].shape]
    if differing:
        name, more = differing[0], f" ({len(differing) - 1} more differ)" if len(differing) > 1 else ""
        raise MisfitError(
            f"weights {origin}: tensor {name!r} has shape {tuple(tensors[name].shape)} and the architecture's has "
            f"{tuple(state[name].shape)}{more}"
        )
    for name, tensor in tensors.items():
        if not _converts(tensor, state[name]):
            raise RequestError(
                f"weights {origin}: tensor {name!r} is of type {tensor.dtype} and the architecture's of "
                f"{state[name].dtype}: save the weights as floating-point numbers, not quantised"
            )
    network.load_state_dict(tensors)


def write_weights(network: nn.Module, file: Path, *, half: bool = False) -> str:
    """Save a network's state as safetensors and return the file's SHA-256.

    Args:
        network: whose state to save.
        file: where to.
        half: round to half precision.

    Raises:
        RequestError: the disk is full, or the folder is not writable.
    """
    state = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
    if half:
        state = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    # Written here and not by safetensors, whose files no one else may read.
    return sha256_of(write_bytes(file, save(state)))


def _check_values(file: Path, name: str, tensor: Tensor) -> None:
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_complex() or tensor.is_quantized:
        raise RequestError(
            f"weights {file}: tensor {name!r} is sparse, complex, quantised or without values: save dense real numbers"
        )
    # Networks are computed in single precision: what overflows there is infinite, too.
    if tensor.is_floating_point() and not tensor.float().isfinite().all():
        raise RequestError(f"weights {file}: tensor {name!r} holds NaN or infinite values: get another checkpoint")


def _converts(given: Tensor, taken: Tensor) -> bool:
    """Counts may have been saved as real numbers, by whoever converted a whole state; weights are no whole numbers."""
    if taken.is_floating_point():
        return given.is_floating_point()
    return not given.is_floating_point() or bool((given == given.round()).all())


def _listed(kind: str, names: list[str], shapes: Tensors) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    listed = ", ".join(f"{name} {tuple(shapes[name].shape)}" for name in names[:LISTED])
    return f"{kind} {listed}{more}" if names else ""
