"""Which known architectures a checkpoint fits, by the names and shapes of its tensors. No values are computed with."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.model_zoo.architectures import ARCHITECTURES, build_architecture
from robustbench_bcos.model_zoo.checkpoints.assign import MisfitError
from robustbench_bcos.model_zoo.checkpoints.infer import infer_arguments
from robustbench_bcos.model_zoo.checkpoints.layouts import Tensors, common_prefix

ANY_IMAGE_NORM = "layer"
"""Stands for all norms without running statistics, which have the same tensors."""


class Match(NamedTuple):
    """An architecture whose tensors have exactly the names and shapes of a checkpoint's."""

    architecture: str
    arguments: Mapping[str, Any]
    """What was read off the tensors."""
    open: tuple[str, ...] = ()
    """Arguments that have to be stated, because the tensors fit several values."""


def matching_architectures(tensors: Tensors, among: Iterable[str] = ARCHITECTURES) -> list[Match]:
    """Architectures that a checkpoint fits exactly, with arguments read off its tensors.

    Args:
        tensors: of the checkpoint.
        among: names of architectures to try; by default all, which takes some seconds.
    """
    fits = (_fit(name, tensors) for name in among)
    return [fit for fit in fits if fit is not None]


def suggest_architecture(tensors: Tensors, stated: str | None = None) -> str:
    """What to do with a checkpoint that does not fit what was stated of it, as the end of a sentence."""
    fits = matching_architectures(tensors)
    if stated in [fit.architecture for fit in fits]:
        return f"{stated} has these tensors with other arguments: leave --argument out"
    if fits:
        return f"use --architecture {' or '.join(map(_written, fits))}, which has exactly these tensors"
    prefix = common_prefix(tensors)
    if prefix:
        inner = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
        fits = matching_architectures(inner)
        gain = f" and fit --architecture {' or '.join(map(_written, fits))} without it" if fits else ""
        return (
            f"all names begin with {prefix!r}{gain}: save {{name.removeprefix({prefix!r}): tensor for name, tensor in "
            "state.items()}"
        )
    return f"none of the {len(ARCHITECTURES)} known architectures has these tensors"


def _written(fit: Match) -> str:
    return " ".join([fit.architecture, *(f"(with --argument {name}=...)" for name in fit.open)])


def _fit(name: str, tensors: Tensors) -> Match | None:
    try:
        arguments, still_open = _inferred(name, tensors)
    except MisfitError:
        return None
    built = {key: value for key, value in arguments.items() if key not in ("in_channels", "classes")}
    try:
        with torch.device("meta"):
            network = build_architecture(
                name, in_channels=arguments["in_channels"], classes=arguments["classes"], arguments=built
            )
    except (RequestError, ValueError):
        # The checkpoint's shapes are whatever they are, and no network may have them.
        return None
    read_off = {key: value for key, value in arguments.items() if key not in still_open}
    return Match(name, read_off, still_open) if _shapes(network.state_dict()) == _shapes(tensors) else None


def _inferred(name: str, tensors: Tensors) -> tuple[dict[str, Any], tuple[str, ...]]:
    try:
        return infer_arguments(name, tensors, {}), ()
    except MisfitError:
        raise
    except RequestError:
        return infer_arguments(name, tensors, {"norm": ANY_IMAGE_NORM}), ("norm",)


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in state.items()}
