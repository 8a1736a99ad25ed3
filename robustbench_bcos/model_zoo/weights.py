"""Weights are data, not programs: tensors are read, and nothing in a file is ever executed."""

import hashlib
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.model_zoo.cards import WeightsFormat

Tensors = dict[str, Tensor]


def sha256_of(file: Path) -> str:
    """Digest of a file's bytes.

    Raises:
        RequestError: the file cannot be read.
    """
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise RequestError(f"weights {file} cannot be read ({error.strerror}): check the path") from None


def read_weights(file: Path, *, sha256: str | None = None, kind: WeightsFormat | None = None) -> Tensors:
    """Named tensors of a safetensors file or of a bare state dict saved by ``torch.save``.

    Args:
        file: what to read.
        sha256: the digest the file must have.
        kind: the file's format; by default safetensors for ``*.safetensors`` and a state dict for all others.

    Raises:
        RequestError: the file is unreadable, truncated, has another digest, holds more than named tensors, or holds
            values that are not finite real numbers.
    """
    found = sha256_of(file)
    if sha256 is not None and found != sha256:
        raise RequestError(f"weights {file} have SHA-256 {found}, expected {sha256}: get the file again")
    kind = kind or ("safetensors" if file.suffix == ".safetensors" else "state_dict")
    tensors = _read_safetensors(file) if kind == "safetensors" else _read_state_dict(file)
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_complex():
            raise RequestError(
                f"weights {file}: tensor {name!r} is sparse, complex or without values: save dense real numbers"
            )
        if not tensor.isfinite().all():
            raise RequestError(f"weights {file}: tensor {name!r} holds NaN or infinite values: get another checkpoint")
    return tensors


def load_weights(network: nn.Module, tensors: Tensors, origin: object) -> None:
    """Copy tensors into a network that has exactly those names and shapes.

    Raises:
        RequestError: a tensor is missing, is not in the network, or has another shape.
    """
    state = network.state_dict()
    missing, surplus = sorted(state.keys() - tensors.keys()), sorted(tensors.keys() - state.keys())
    if missing or surplus:
        raise RequestError(
            f"weights {origin} do not fit the architecture: {_listed('missing', missing)}{_listed('surplus', surplus)}"
            "choose the architecture they were made with"
        )
    for name, tensor in tensors.items():
        if tensor.shape != state[name].shape:
            raise RequestError(
                f"weights {origin}: tensor {name!r} has shape {tuple(tensor.shape)} and the architecture's has "
                f"{tuple(state[name].shape)}: choose the architecture they were made with"
            )
    network.load_state_dict(tensors)


def write_weights(network: nn.Module, file: Path) -> str:
    """Save a network's state as safetensors and return the file's SHA-256."""
    partial = file.with_suffix(".partial")
    # Written here and not by safetensors, whose files no one else may read.
    partial.write_bytes(save({name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}))
    partial.replace(file)
    return sha256_of(file)


def _listed(kind: str, names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{kind} {', '.join(names[:3])}{more}; " if names else ""


def _read_safetensors(file: Path) -> Tensors:
    try:
        return load_file(str(file))
    except (SafetensorError, OSError) as error:
        raise RequestError(f"weights {file} are not a whole safetensors file ({error}): get the file again") from None


def _read_state_dict(file: Path) -> Tensors:
    try:
        with warnings.catch_warnings():
            # torch warns of pickles it then refuses; the refusal says it better.
            warnings.simplefilter("ignore")
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise RequestError(
            f"weights {file} hold more than tensors, and programs in a checkpoint are not run: "
            "save the bare state dict, or convert it to safetensors"
        ) from None
    except Exception as error:  # torch raises nearly anything over a damaged file.
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise RequestError(f"weights {file} are not a whole torch checkpoint ({reason}): get the file again") from None
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise RequestError(f"weights {file} are not a bare state dict (names to tensors): save model.state_dict()")
    return {str(name): tensor for name, tensor in content.items()}
