"""What a checkpoint's tensors say of the architecture that made them.

Number of classes, MaxOut, input channels and the presence of norms can be read off. Whether a norm is centred cannot:
there the published default holds (uncentred for B-cos), and an argument overrides it.
"""

from typing import Any

from torch import Tensor

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.model_zoo.architectures.registry import ARCHITECTURES, BCOS_PREFIX, KeyLayers
from robustbench_bcos.model_zoo.checkpoints.assign import MisfitError
from robustbench_bcos.model_zoo.checkpoints.layouts import Tensors


def infer_arguments(architecture: str, tensors: Tensors, given: dict[str, Any]) -> dict[str, Any]:
    """Arguments of an architecture, ``in_channels`` and ``classes`` among them; what is given is not guessed.

    Raises:
        RequestError: tensors the architecture must have are missing, or they leave the norm open.
    """
    bcos = architecture.startswith(BCOS_PREFIX)
    taken, layout = ARCHITECTURES[architecture].arguments, ARCHITECTURES[architecture].layout
    first, last = _ends(architecture, tensors)
    inferred: dict[str, Any] = {"in_channels": first.shape[1] // layout.patch}
    max_out = given.get("max_out", max(1, first.shape[0] // layout.filters)) if "max_out" in taken else 1
    if not isinstance(max_out, int) or max_out < 1:
        raise RequestError(f"max_out must be a whole number of at least 1, got {max_out!r}: choose 1 for no MaxOut")
    inferred["classes"] = last.shape[0] // max_out
    if inferred["classes"] < 2:
        raise MisfitError(f"the weights' last layer has {last.shape[0]} filters, which is fewer than two classes")
    if "max_out" in taken:
        inferred["max_out"] = max_out
    if "norm" in taken and layout.norm is not None:
        inferred |= _norm(f"{layout.norm}.", tensors, layout, given, bcos=bcos)
    return {**inferred, **given}


def _ends(architecture: str, tensors: Tensors) -> tuple[Tensor, Tensor]:
    """Weights of the first and of the last layer."""
    layout = ARCHITECTURES[architecture].layout
    inner = "linear." if architecture.startswith(BCOS_PREFIX) else ""
    try:
        first, last = tensors[f"{layout.first}.{inner}weight"], tensors[f"{layout.last}.{inner}weight"]
    except KeyError as error:
        raise MisfitError(
            f"the weights have no tensor {error} of architecture {architecture!r} (the prefix bcos_ marks B-cos "
            "networks)"
        ) from None
    if first.dim() != (4 if layout.patch == 1 else 2) or first.shape[1] % layout.patch or last.dim() < 2:
        raise MisfitError(
            f"the weights' first and last layers have shapes {tuple(first.shape)} and {tuple(last.shape)}, which "
            f"architecture {architecture!r} cannot have"
        )
    return first, last


def _norm(prefix: str, tensors: Tensors, layout: KeyLayers, given: dict[str, Any], *, bcos: bool) -> dict[str, Any]:
    norm = given["norm"] if "norm" in given else _kind_of_norm(prefix, tensors, layout, bcos=bcos)
    if f"{prefix}weight" in tensors:
        return {"norm": norm, "norm_affine": "full" if f"{prefix}bias" in tensors else "no-bias"}
    return {"norm": norm} if norm == "none" else {"norm": norm, "norm_affine": "none"}


def _kind_of_norm(prefix: str, tensors: Tensors, layout: KeyLayers, *, bcos: bool) -> str:
    variance = tensors.get(f"{prefix}running_var")
    if variance is not None:
        kind = "all" if variance.numel() == 1 else "batch"
        return f"{kind}-uncentred" if bcos else kind
    if not any(name.startswith(prefix) for name in tensors):
        return "none"
    if layout.image_norm is None:
        raise RequestError(
            "the weights have norms without running statistics, which could be group, instance, layer or position "
            "norms: name one with --argument norm=position-uncentred, say"
        )
    return layout.image_norm
