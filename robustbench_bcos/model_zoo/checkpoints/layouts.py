"""Layouts of published checkpoints: which of their tensors belong to the network, and under which names.

- ``state_dict``, ``safetensors``: names to tensors and nothing else.
- ``lightning``: ``state_dict`` holds ``model.NAME`` and, where an average of the weights was kept,
  ``ema.module.NAME``; a training without Lightning writes ``model_state_dict``. As in the official B-cos trainings.
- ``madry``: ``model`` (once ``state_dict``) holds ``module.model.NAME``, the same network again for its attacker, and
  the normaliser that is part of the model (Engstrom et al., 2019, the ``robustness`` library).
- ``robustbench``: bare or under ``state_dict``, with what wrappers add to the names, counters, and the normaliser that
  is part of the model (Croce et al., 2021, whose models call its constants ``mu`` and ``sigma``).

Averages of the weights are beside them (timm: ``state_dict_ema``; torchvision: ``model_ema``), under their names
(``ema.module.NAME``), in their place, while they are elsewhere (Lightning's ``WeightAveraging``), or are all there is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.model_zoo.cards import EncodingSpec, WeightsFormat
from robustbench_bcos.model_zoo.checkpoints.read import FileContent, programs_in, read_content

Tensors = dict[str, Tensor]

WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "module",
    "weights",
    "checkpoint",
    "state",
    "params",
)
"""Keys under which training scripts save the weights."""

AVERAGES = (
    *("ema", "model_ema", "ema_model", "state_dict_ema", "ema_state_dict", "model_ema_state_dict"),
    *("ema_model_state_dict", "averaged_model", "swa", "swa_model", "swa_state_dict", "model_swa", "shadow"),
    *("params_ema", "ema_params", "ema_weights", "ema_state", "model_ema_state"),
)
"""Keys under which they save a moving average of the weights, and prefixes of its names."""

DEEPEST = 3
"""Dictionaries in one another, at most, in which weights are looked for."""

PREFIXES = ("module.", "model.", "net.", "network.", "_model.", "base_model.", "online_model.", "wrapped_model.")
"""Prefixes that a wrapper around a network adds to all its names."""

WRAPPED = ("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
"""What ``torch.compile``, data parallelism, sharding and recomputation add to the names of the modules they wrap."""

COUNTERS = ("total_ops", "total_params", "n_averaged")
"""Tensors that profilers and averages add to a network, and that are no part of it."""

AVERAGE_PREFIXES = tuple(f"{average}." for average in AVERAGES)

MEANS = ("mean", "mu", "means", "new_mean", "_mean", "pixel_mean", "image_mean", "data_mean", "norm_mean")
DEVIATIONS = ("std", "sigma", "stds", "new_std", "_std", "pixel_std", "image_std", "data_std", "norm_std")
"""Names of the constants of a normaliser that is part of a model, in the same order."""


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
    prefix: str = ""
    """What was taken off the names already."""
    left_out: int = 0


def read_checkpoint(file: Path, *, kind: WeightsFormat | None = None, ema: bool = False) -> Checkpoint:
    """The network's tensors in a weights file, and what else the file says of the network.

    Args:
        file: what to read.
        kind: the layout of the file; by default it is recognised.
        ema: take the moving average of the weights in place of the last ones.

    Raises:
        RequestError: the file is unreadable, truncated, has another layout, needs more than tensors and plain values,
            or holds values that are not finite real numbers.
    """
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
    content = content._replace(value=_in_its_place(content.value))
    saved = _find_average(file, content) if ema else _find_state(file, content)
    named = common_prefix(_without_prefixes(saved.tensors, prefixes=("module.",))[0])
    if named in AVERAGE_PREFIXES:
        raise _average_alone(file, named.removesuffix("."))
    found = _recognise(content, saved)
    layout = kind or found
    if layout not in (found, *_further_readings(found, saved)):
        raise RequestError(
            f"weights {file} are laid out as {found!r} and not as {kind!r}: write the former as the card's "
            "weights.format"
        )
    if layout == "madry":
        return _from_madry(saved)
    if kind in ("state_dict", "safetensors"):
        return Checkpoint(tensors=saved.tensors, kind=kind)
    kept, prefix = _of_the_network(saved.tensors) if layout == "lightning" else (saved.tensors, "")
    inner = _unwrapped(file, kept)
    return replace(
        inner,
        kind=layout,
        prefix=saved.prefix + prefix + inner.prefix,
        left_out=inner.left_out + len(saved.tensors) - len(kept) + saved.left_out,
    )


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
    """The weights, and not their average, unless that is all there is and nothing calls it one."""
    found = _under(content.value, WRAPPERS)
    if found is None and _averages(content.value):
        raise _average_alone(file, next(iter(_averages(content.value))))
    if found is None and content.left_out:
        raise programs_in(file, content.left_out[0])
    if found is None:
        raise RequestError(
            f"weights {file} hold {_described(content.value)} and no state dict (names to tensors): save "
            "model.state_dict()"
        )
    wrapper, tensors = found
    return _StateDict(file=file, container=content.container, tensors=tensors, wrapper=wrapper)


def _average_alone(file: Path, name: str) -> RequestError:
    return RequestError(
        f"weights {file} hold a moving average of the weights alone ({name}): ask for it with ema (--ema)"
    )


def _in_its_place(content: object) -> object:
    """What Lightning saves of weights that it averages, each under a name that says what it is."""
    if not isinstance(content, Mapping) or not {"averaging_state", "current_model_state"} <= content.keys():
        return content
    return {**content, "state_dict": content["current_model_state"], "ema": content["state_dict"]}


def _find_average(file: Path, content: FileContent) -> _StateDict:
    """The moving average: beside the weights, under their names, or all there is."""
    averages = _averages(content.value)
    if averages:
        first, *others = averages.values()
        if not all(_equal(first, other) for other in others):
            raise RequestError(
                f"weights {file} hold several moving averages that differ ({', '.join(averages)}): save the one that "
                "is meant, torch.save(state, 'weights.pth')"
            )
        return _StateDict(file=file, container=content.container, tensors=first, wrapper=next(iter(averages)))
    saved = _find_state(file, content)
    for average in AVERAGES:
        named = _below(f"{average}.", _without_prefixes(saved.tensors, prefixes=("module.",))[0])
        if named:
            left_out = len(saved.tensors) - len(named)
            return replace(saved, tensors=named, prefix=f"{average}.", left_out=left_out)
    if any(name.rpartition(".")[2] == "n_averaged" for name in saved.tensors):
        return saved
    unread = next((key for key in AVERAGES if _entry(content.value, key) is not None), None)
    if unread is not None:
        raise RequestError(
            f"weights {file} have a moving average under {unread!r} that is no state dict (names to tensors): where "
            "they were made, torch.save(average.state_dict(), 'weights.pth') saves what is needed"
        )
    raise RequestError(f"weights {file} have no moving average of the weights: leave out ema (--ema)")


def _averages(content: object) -> dict[str, Tensors]:
    """Moving averages that have a key of their own, which may be within the entry of the weights."""
    found: dict[str, Tensors] = {}
    layers = [content]
    for _ in range(DEEPEST):
        for layer in layers:
            for key in AVERAGES:
                state = _under(_entry(layer, key), (*WRAPPERS, *AVERAGES))
                if state is not None:
                    found.setdefault(key, state[1])
        layers = [inner for layer in layers for key in WRAPPERS if isinstance(inner := _entry(layer, key), Mapping)]
    return found


def _under(value: object, keys: Sequence[str], depth: int = DEEPEST) -> tuple[str | None, Tensors] | None:
    """The state dict that a value is, or that it holds under one of these keys, and under which."""
    tensors = _tensors(value)
    if tensors is not None:
        return None, tensors
    if depth == 0 or not isinstance(value, Mapping):
        return None
    for key in keys:
        found = _under(value.get(key), keys, depth - 1)
        if found is not None:
            return key, found[1]
    return None


def _tensors(value: object) -> Tensors | None:
    """The tensors of a state dict, which may have a few plain values among them, such as the epoch."""
    if not isinstance(value, Mapping):
        return None
    tensors = {str(name): entry for name, entry in value.items() if isinstance(entry, Tensor)}
    others = [entry for entry in value.values() if not isinstance(entry, Tensor)]
    plain = all(isinstance(entry, int | float | str | None) for entry in others)
    return tensors if tensors and plain and len(others) < len(tensors) else None


def _entry(content: object, key: str) -> object:
    return content.get(key) if isinstance(content, Mapping) else None


def _described(content: object) -> str:
    if not isinstance(content, Mapping):
        return f"a value of type {type(content).__name__}"
    keys = [str(key) for key in content][:5]
    return f"a dictionary of {', '.join(keys)}" if keys else "an empty dictionary"


def _recognise(content: FileContent, saved: _StateDict) -> WeightsFormat:
    names = _without_prefixes(saved.tensors, prefixes=("module.",))[0]
    # Normalisers of others have the same name, and constants of other names.
    if "normalizer.new_mean" in names or any(name.startswith("attacker.") for name in names):
        return "madry"
    averaged = any(name.startswith(AVERAGE_PREFIXES) for name in names)
    if (
        averaged
        or saved.wrapper == "model_state_dict"
        or _entry(content.value, "pytorch-lightning_version") is not None
    ):
        return "lightning"
    if content.container == "safetensors":
        return "safetensors"
    inner = _unwrapped(saved.file, saved.tensors)
    bare = saved.wrapper is None and inner.tensors.keys() == saved.tensors.keys()
    return "state_dict" if bare else "robustbench"


def _further_readings(found: WeightsFormat, saved: _StateDict) -> tuple[WeightsFormat, ...]:
    """Layouts that a card may state instead of the recognised one, because a file may lack what distinguishes them."""
    if saved.wrapper is None:
        bare: WeightsFormat = "safetensors" if saved.container == "safetensors" else "state_dict"
        return (bare, "robustbench") if found == "state_dict" else (bare,)
    return ("lightning",) if found == "robustbench" else ()


def _of_the_network(state: Tensors) -> tuple[Tensors, str]:
    """What a training module keeps of its network, without the average, metrics and losses; and its prefix."""
    for prefix in PREFIXES:
        named = _below(prefix, state)
        if len(named) > len(state) / 3:
            return named, prefix
    return {name: tensor for name, tensor in state.items() if not name.startswith(AVERAGE_PREFIXES)}, ""


def _unwrapped(file: Path, state: Tensors) -> Checkpoint:
    """The network's own names, without wrappers, counters and its normaliser, which becomes the encoding."""
    tensors = {name: tensor for name, tensor in state.items() if name.rpartition(".")[2] not in COUNTERS}
    tensors, taken = _without_prefixes(tensors, prefixes=(*PREFIXES, *(f"{part}." for part in WRAPPED)))
    bare = {_without_wrapped(name): tensor for name, tensor in tensors.items()}
    # Where two names become one, that part of them is the network's own.
    tensors = bare if len(bare) == len(tensors) else tensors
    encoding = None
    while True:
        tensors, prefix = _without_prefixes(tensors)
        taken += prefix
        normaliser = _find_normaliser(tensors)
        if normaliser is None or encoding is not None:
            break
        encoding = _normaliser(file, normaliser)
        inside = next(iter(normaliser)).rpartition(".")[0]
        tensors = {name: tensor for name, tensor in tensors.items() if name not in normaliser}
        # Beside a normaliser, the network has a place of its own: the next one of a sequence, say.
        own = common_prefix(tensors) if inside else ""
        tensors, taken = (_below(own, tensors), taken + own) if own else (tensors, taken)
    return Checkpoint(
        tensors=tensors, kind="robustbench", encoding=encoding, prefix=taken, left_out=len(state) - len(tensors)
    )


def _without_wrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPED)


def _find_normaliser(state: Tensors) -> dict[str, Tensor] | None:
    """Mean and deviation of a normaliser: the only two tensors of a module near the top, or two of the model itself."""
    for name, tensor in state.items():
        parent, dot, last = name.rpartition(".")
        if last not in MEANS or parent.count(".") > 1 or tensor.numel() not in (1, 3):
            continue
        other = f"{parent}{dot}{DEVIATIONS[MEANS.index(last)]}"
        beside = _below(f"{parent}{dot}", state) if parent else {}
        if other in state and state[other].numel() == tensor.numel() and len(beside) in (0, 2):
            return {name: tensor, other: state[other]}
    return None


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
    encoding = _madrys_normaliser(saved.file, normalisers[0]) if normalisers else None
    return Checkpoint(
        tensors=tensors,
        kind="madry",
        encoding=encoding,
        prefix=f"{prefix}model.{further}",
        left_out=len(state) - len(tensors),
    )


def _madrys_normaliser(file: Path, constants: Tensors) -> EncodingSpec:
    try:
        chosen = {name: constants[name] for name in ("new_mean", "new_std")}
    except KeyError as error:
        raise RequestError(f"weights {file}: their normaliser has no {error}: get another checkpoint") from None
    return _normaliser(file, chosen)


def _normaliser(file: Path, constants: Tensors) -> EncodingSpec:
    mean, std = (decimals(values) for values in constants.values())
    if len(mean) == len(std) == 1:
        mean, std = 3 * mean, 3 * std
    if max(mean, default=0) > 1 and max(std, default=0) > 1:
        # Of pixels in [0, 255].
        mean, std = ([value / 255 for value in values] for values in (mean, std))
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
