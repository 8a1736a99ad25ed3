"""Inferring an architecture's arguments from the tensors of a checkpoint.

The number of classes, MaxOut, input channels and the presence of norm layers can be inferred. Whether a norm is centred
cannot: the published default is assumed (uncentred for B-cos), and an argument overrides it.
"""

from typing import Any

from torch import Tensor

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.model_zoo.architectures.registry import ARCHITECTURES, Architecture
from robustbench_bcos.model_zoo.bcos.exponents import ENDING
from robustbench_bcos.model_zoo.checkpoints.assign import MisfitError
from robustbench_bcos.model_zoo.checkpoints.layouts import Tensors


def infer_arguments(architecture: str, tensors: Tensors, given: dict[str, Any]) -> dict[str, Any]:
    """Arguments of an architecture, including ``in_channels`` and ``classes``; arguments that are given are kept.

    Raises:
        RequestError: tensors the architecture must have are missing, or they leave the norm open.
    """
    known = ARCHITECTURES[architecture]
    taken, layers = known.arguments, known.key_layers
    first, last = _ends(architecture, known, tensors)
    inferred: dict[str, Any] = {"in_channels": first.shape[1] // layers.patch}
    max_out = given.get("max_out", max(1, first.shape[0] // layers.filters)) if "max_out" in taken else 1
    if not isinstance(max_out, int) or max_out < 1:
        raise RequestError(f"max_out must be a whole number of at least 1, got {max_out!r}: choose 1 for no MaxOut")
    inferred["classes"] = last.shape[0] // max_out
    if inferred["classes"] < 2:
        raise MisfitError(f"the weights' last layer has {last.shape[0]} filters, which is fewer than two classes")
    if "max_out" in taken:
        inferred["max_out"] = max_out
    if "learn_b" in taken and any(name.endswith(ENDING) for name in tensors):
        inferred["learn_b"] = "layer"
    if "norm" in taken and layers.norm is not None:
        inferred |= _norm(f"{layers.norm}.", tensors, known, given)
    return {**inferred, **given}


def _ends(name: str, architecture: Architecture, tensors: Tensors) -> tuple[Tensor, Tensor]:
    """Weights of the first and of the last layer."""
    layers = architecture.key_layers
    inner = "linear." if architecture.family == "bcos" else ""
    try:
        first, last = tensors[f"{layers.first}.{inner}weight"], tensors[f"{layers.last}.{inner}weight"]
    except KeyError as error:
        raise MisfitError(
            f"the weights have no tensor {error} of architecture {name!r} (the prefix bcos_ marks B-cos networks)"
        ) from None
    if first.dim() != (4 if layers.patch == 1 else 2) or first.shape[1] % layers.patch or last.dim() < 2:
        raise MisfitError(
            f"the weights' first and last layers have shapes {tuple(first.shape)} and {tuple(last.shape)}, which "
            f"architecture {name!r} cannot have"
        )
    return first, last


def _norm(prefix: str, tensors: Tensors, architecture: Architecture, given: dict[str, Any]) -> dict[str, Any]:
    norm = given["norm"] if "norm" in given else _kind_of_norm(prefix, tensors, architecture)
    if f"{prefix}weight" in tensors:
        return {"norm": norm, "norm_affine": "full" if f"{prefix}bias" in tensors else "no-bias"}
    return {"norm": norm} if norm == "none" else {"norm": norm, "norm_affine": "none"}


def _kind_of_norm(prefix: str, tensors: Tensors, architecture: Architecture) -> str:
    variance = tensors.get(f"{prefix}running_var")
    if variance is not None:
        kind = "all" if variance.numel() == 1 else "batch"
        return f"{kind}-uncentred" if architecture.family == "bcos" else kind
    if not any(name.startswith(prefix) for name in tensors):
        return "none"
    if architecture.key_layers.image_norm is None:
        raise RequestError(
            "the weights have norms without running statistics, which could be group, instance, layer or position "
            "norms: name one with --argument norm=position-uncentred, say"
        )
    return architecture.key_layers.image_norm
