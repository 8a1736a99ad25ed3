"""Which registered architectures match a checkpoint, by the names and shapes of its tensors."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.model_zoo.architectures import ARCHITECTURES, build_architecture
from robustbench_bcos.model_zoo.architectures.bcosified import PREFIX as BCOSIFIED_PREFIX
from robustbench_bcos.model_zoo.checkpoints.assign import MisfitError
from robustbench_bcos.model_zoo.checkpoints.infer import infer_arguments
from robustbench_bcos.model_zoo.checkpoints.layouts import Tensors, common_prefix

ANY_IMAGE_NORM = "layer"
"""Represents all norm layers without running statistics, which have the same tensors."""

CLIP_POOL = "attnpool.c_proj.linear.weight"
"""What B-cosified image towers of CLIP have, and nothing else."""


class Match(NamedTuple):
    """An architecture with exactly the tensor names and shapes of a checkpoint."""

    architecture: str
    arguments: Mapping[str, Any]
    """Arguments inferred from the tensors."""
    open: tuple[str, ...] = ()
    """Arguments that must be stated, because several values give the same tensors."""


def matching_architectures(tensors: Tensors, among: Iterable[str] = ARCHITECTURES) -> list[Match]:
    """Architectures that match a checkpoint exactly, with arguments inferred from its tensors.

    Args:
        tensors: of the checkpoint.
        among: names of architectures to try; by default all, which takes some seconds.
    """
    found = [match for match in (_match(name, tensors) for name in among) if match is not None]
    # Raw and normalised filters have the same tensors. Means that B-cos networks never use are 0, unless their norms
    # were conventional once.
    known = [tensor for name, tensor in tensors.items() if name.endswith("running_mean") and not tensor.is_meta]
    means = any(bool(tensor.any()) for tensor in known)
    others = [match for match in found if match.architecture.startswith(BCOSIFIED_PREFIX) == means]
    both = any(match.architecture.startswith(BCOSIFIED_PREFIX) for match in found)
    return others if both and others else found


def suggest_architecture(tensors: Tensors, stated: str | None = None) -> str:
    """The remedy for a checkpoint that does not fit the stated architecture, as the end of a sentence."""
    matches = matching_architectures(tensors)
    if stated in [match.architecture for match in matches]:
        return f"{stated} has these tensors with other arguments: leave --argument out"
    if matches:
        return f"use --architecture {' or '.join(map(_written, matches))}, which has exactly these tensors"
    prefix = common_prefix(tensors)
    if prefix:
        inner = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
        matches = matching_architectures(inner)
        gain = f" and fit --architecture {' or '.join(map(_written, matches))} without it" if matches else ""
        return (
            f"all names begin with {prefix!r}{gain}: save {{name.removeprefix({prefix!r}): tensor for name, tensor in "
            "state.items()}"
        )
    if any(name.endswith(CLIP_POOL) for name in tensors):
        return "use --architecture clip:RN50, which is for B-cosified image towers of CLIP"
    return f"none of the {len(ARCHITECTURES)} known architectures has these tensors"


def _written(match: Match) -> str:
    return " ".join([match.architecture, *(f"(with --argument {name}=...)" for name in match.open)])


def _match(name: str, tensors: Tensors) -> Match | None:
    try:
        tensors = ARCHITECTURES[name].rename(tensors)
        arguments, still_open = _inferred(name, tensors)
    except MisfitError:
        return None
    settings = {key: value for key, value in arguments.items() if key not in ("in_channels", "classes")}
    try:
        with torch.device("meta"):
            network = build_architecture(
                name, in_channels=arguments["in_channels"], classes=arguments["classes"], arguments=settings
            )
    except (RequestError, ValueError, RuntimeError):
        # No network of this architecture may have the checkpoint's numbers of channels and classes.
        return None
    inferred = {key: value for key, value in arguments.items() if key not in still_open}
    return Match(name, inferred, still_open) if _shapes(network.state_dict()) == _shapes(tensors) else None


def _inferred(name: str, tensors: Tensors) -> tuple[dict[str, Any], tuple[str, ...]]:
    try:
        return infer_arguments(name, tensors, {}), ()
    except MisfitError:
        raise
    except RequestError:
        return infer_arguments(name, tensors, {"norm": ANY_IMAGE_NORM}), ("norm",)


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in state.items()}
