"""Layouts of published checkpoints: which of their tensors belong to the network, and under which names.

- ``state_dict``, ``safetensors``: names to tensors and nothing else.
- ``lightning``: ``state_dict`` holds ``model.NAME`` and, where an average of the weights was kept,
  ``ema.module.NAME``; a training without Lightning writes ``model_state_dict``. As in the official B-cos trainings.
- ``madry``: ``model`` (once ``state_dict``) holds ``module.model.NAME``, the same network again for its attacker, and
  the normaliser that is part of the model (Engstrom et al., 2019, the ``robustness`` library).
- ``robustbench``: bare or under ``state_dict``, with prefixes ``module.`` and ``model.`` where all names carry them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.model_zoo.cards import EncodingSpec, WeightsFormat
from robustbench_bcos.model_zoo.checkpoints.read import FileContent, read_content
from robustbench_bcos.model_zoo.digests import sha256_of

Tensors = dict[str, Tensor]

WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
"""Keys under which training scripts save the weights."""

PREFIXES = ("module.", "model.")
"""Prefixes that a wrapper around a network adds to all its names."""

EMA = "ema."


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A network's tensors, and what else its file says of it."""

    tensors: Tensors
    kind: WeightsFormat
    encoding: EncodingSpec | None = None
    """The normaliser saved with the model, if there is one."""
    prefix: str = ""
    """Prefix that was removed from all names."""
    left_out: int = 0
    """Number of tensors in the file that do not belong to the network."""


@dataclass(frozen=True, kw_only=True)
class _StateDict:
    """A file's state dict, and under which key it was."""

    file: Path
    container: Literal["safetensors", "torch"]
    tensors: Tensors
    wrapper: str | None


def read_checkpoint(
    file: Path, *, sha256: str | None = None, kind: WeightsFormat | None = None, ema: bool = False
) -> Checkpoint:
    """The network's tensors in a weights file, and what else the file says of the network.

    Args:
        file: what to read.
        sha256: the digest the file must have.
        kind: the layout of the file; by default it is recognised.
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


def unpack(file: Path, content: FileContent, *, kind: WeightsFormat | None = None, ema: bool = False) -> Checkpoint:
    """The network's tensors in the content of a file.

    Args:
        file: for messages.
        content: of the file.
        kind: the layout; by default it is recognised.
        ema: take the moving average of the weights in place of the last ones.

    Raises:
        RequestError: there is no state dict in it, it has another layout, or no moving average.
    """
    saved = _find_state(file, content)
    found = _recognise(content, saved)
    layout = kind or found
    if layout not in (found, *_further_readings(found, saved)):
        raise RequestError(
            f"weights {file} are laid out as {found!r} and not as {kind!r}: write the former as the card's "
            "weights.format"
        )
    if layout == "lightning":
        return _from_lightning(saved, ema=ema)
    if ema:
        raise RequestError(f"weights {file} have no moving average of the weights: leave out ema (--ema)")
    if layout == "madry":
        return _from_madry(saved)
    if kind in ("state_dict", "safetensors"):
        return Checkpoint(tensors=saved.tensors, kind=kind)
    tensors, prefix = _without_prefixes(saved.tensors)
    return Checkpoint(tensors=tensors, kind=layout, prefix=prefix)


def agree(stated: EncodingSpec, found: EncodingSpec) -> bool:
    """Whether two encodings have the same constants in single precision."""
    return stated.kind == found.kind and all(
        torch.equal(torch.tensor(stated.constants[key]), torch.tensor(found.constants[key])) for key in found.constants
    )


def normalizing(mean: Sequence[float], std: Sequence[float]) -> EncodingSpec:
    """The encoding ``normalize`` with three means and three deviations."""
    return EncodingSpec.model_validate({"kind": "normalize", "mean": mean, "std": std})


def decimals(constants: Tensor) -> list[float]:
    """The shortest decimals that give these values in single precision, which are those their authors wrote."""
    return [float(str(np.float32(value))) for value in constants.flatten().tolist()]


def common_prefix(tensors: Mapping[str, Tensor]) -> str:
    """The first part of the names, dot included, if all names share it."""
    first = {name.partition(".")[0] for name in tensors if "." in name}
    all_have_one = len(first) == 1 and all("." in name for name in tensors)
    return f"{first.pop()}." if all_have_one else ""


def _check_values(file: Path, name: str, tensor: Tensor) -> None:
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_complex() or tensor.is_quantized:
        raise RequestError(
            f"weights {file}: tensor {name!r} is sparse, complex, quantised or without values: save dense real numbers"
        )
    # Networks are computed in single precision, in which larger values become infinite.
    if tensor.is_floating_point() and not tensor.float().isfinite().all():
        raise RequestError(f"weights {file}: tensor {name!r} holds NaN or infinite values: get another checkpoint")


def _find_state(file: Path, content: FileContent) -> _StateDict:
    for wrapper in (None, *WRAPPERS):
        state = content.value if wrapper is None else _entry(content.value, wrapper)
        if isinstance(state, Mapping) and state and all(isinstance(value, Tensor) for value in state.values()):
            tensors = {str(name): tensor for name, tensor in state.items()}
            return _StateDict(file=file, container=content.container, tensors=tensors, wrapper=wrapper)
    raise RequestError(
        f"weights {file} hold {_described(content.value)} and no state dict (names to tensors): save model.state_dict()"
    )


def _entry(content: object, key: str) -> object:
    return content.get(key) if isinstance(content, Mapping) else None


def _described(content: object) -> str:
    if not isinstance(content, Mapping):
        return f"a value of type {type(content).__name__}"
    keys = [str(key) for key in content][:5]
    return f"a dictionary of {', '.join(keys)}" if keys else "an empty dictionary"


def _recognise(content: FileContent, saved: _StateDict) -> WeightsFormat:
    names = _without_prefixes(saved.tensors, prefixes=("module.",))[0]
    if any(name.startswith(("attacker.", "normalizer.")) for name in names):
        return "madry"
    averaged = any(name.startswith(EMA) for name in names)
    if (
        averaged
        or saved.wrapper == "model_state_dict"
        or _entry(content.value, "pytorch-lightning_version") is not None
    ):
        return "lightning"
    if content.container == "safetensors":
        return "safetensors"
    bare = saved.wrapper is None and not _without_prefixes(saved.tensors)[1]
    return "state_dict" if bare else "robustbench"


def _further_readings(found: WeightsFormat, saved: _StateDict) -> tuple[WeightsFormat, ...]:
    """Layouts that a card may state instead of the recognised one, because a file may lack what distinguishes them."""
    if saved.wrapper is None:
        bare: WeightsFormat = "safetensors" if saved.container == "safetensors" else "state_dict"
        return (bare, "robustbench") if found == "state_dict" else (bare,)
    return ("lightning",) if found == "robustbench" else ()


def _from_lightning(saved: _StateDict, *, ema: bool) -> Checkpoint:
    names = list(saved.tensors)
    wanted = f"{EMA}module." if ema else "model."
    selected = [name for name in names if name.startswith(wanted)]
    if ema and not selected:
        raise RequestError(f"weights {saved.file} have no moving average of the weights: leave out ema (--ema)")
    if not selected:
        selected, wanted = [name for name in names if not name.startswith(EMA)], ""
    tensors, prefix = _without_prefixes({name.removeprefix(wanted): saved.tensors[name] for name in selected})
    left_out = len(names) - len(selected)
    return Checkpoint(tensors=tensors, kind="lightning", prefix=wanted + prefix, left_out=left_out)


def _from_madry(saved: _StateDict) -> Checkpoint:
    state, prefix = _without_prefixes(saved.tensors, prefixes=("module.",))
    model, attacked = _below("model.", state), _below("attacker.model.", state)
    if not model:
        raise RequestError(
            f"weights {saved.file} have a normaliser or an attacker and no model: get another checkpoint"
        )
    if attacked and not _equal(model, attacked):
        raise RequestError(
            f"weights {saved.file} hold two models, and the attacked one differs from the other: save the one that is "
            "meant, torch.save(attacker_model.model.state_dict(), 'weights.pth')"
        )
    normalisers = [part for part in (_below("normalizer.", state), _below("attacker.normalize.", state)) if part]
    if not all(_equal(normalisers[0], other) for other in normalisers[1:]):
        raise RequestError(
            f"weights {saved.file} hold two normalisers that differ: save the model's state dict alone, and state its "
            "encoding"
        )
    tensors, further = _without_prefixes(model)
    encoding = _normaliser(saved.file, normalisers[0]) if normalisers else None
    return Checkpoint(
        tensors=tensors,
        kind="madry",
        encoding=encoding,
        prefix=f"{prefix}model.{further}",
        left_out=len(state) - len(tensors),
    )


def _normaliser(file: Path, constants: Tensors) -> EncodingSpec:
    try:
        mean, std = (decimals(constants[name]) for name in ("new_mean", "new_std"))
    except KeyError as error:
        raise RequestError(f"weights {file}: their normaliser has no {error}: get another checkpoint") from None
    if len(mean) != 3 or len(std) != 3 or not min(std) > 0:
        raise RequestError(
            f"weights {file}: their normaliser has means {mean} and deviations {std}, and three of each were expected, "
            "all deviations positive: get another checkpoint"
        )
    return normalizing(mean, std)


def _below(prefix: str, state: Tensors) -> Tensors:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _equal(first: Tensors, second: Tensors) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def _without_prefixes(state: Tensors, prefixes: tuple[str, ...] = PREFIXES) -> tuple[Tensors, str]:
    """The state without the prefixes that all its names share, and those prefixes."""
    taken = ""
    while (prefix := common_prefix(state)) in prefixes:
        state, taken = _below(prefix, state), taken + prefix
    return state, taken
