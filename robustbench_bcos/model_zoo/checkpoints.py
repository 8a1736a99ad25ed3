"""What a checkpoint's tensors say of the architecture that made them.

Number of classes, MaxOut, input channels and the presence of norms can be read off. Whether a norm is centred cannot:
there the published default holds (uncentred for B-cos), and an argument overrides it.
"""

from typing import Any

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.model_zoo.architectures import BCOS_PREFIX
from robustbench_bcos.model_zoo.resnet import WIDTHS
from robustbench_bcos.model_zoo.weights import Tensors

NORM = "bn1."
"""Prefix of the stem's norm: the network has norms exactly where its stem has one."""


def infer_arguments(architecture: str, tensors: Tensors, given: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a CIFAR ResNet, ``in_channels`` and ``classes`` among them; what is given is not guessed.

    Raises:
        RequestError: tensors the architecture must have are missing, or they leave the norm open.
    """
    bcos = architecture.startswith(BCOS_PREFIX)
    inner = "linear." if bcos else ""
    try:
        stem, classifier = tensors[f"conv1.{inner}weight"], tensors[f"fc.{inner}weight"]
    except KeyError as error:
        raise RequestError(
            f"the weights have no tensor {error} of architecture {architecture!r}: choose the architecture they were "
            "made with (the prefix bcos_ marks B-cos networks)"
        ) from None
    if stem.dim() != 4 or classifier.dim() < 2:
        raise RequestError(
            f"the weights' first and last layers have shapes {tuple(stem.shape)} and {tuple(classifier.shape)}, which "
            f"architecture {architecture!r} cannot have: choose the architecture they were made with"
        )
    inferred: dict[str, Any] = {"in_channels": stem.shape[1]}
    max_out = given.get("max_out", max(1, stem.shape[0] // WIDTHS[0])) if bcos else 1
    if not isinstance(max_out, int) or max_out < 1:
        raise RequestError(f"max_out must be a whole number of at least 1, got {max_out!r}: choose 1 for no MaxOut")
    inferred["classes"] = classifier.shape[0] // max_out
    if inferred["classes"] < 2:
        raise RequestError(
            f"the weights' last layer has {classifier.shape[0]} filters, which is fewer than two classes: choose the "
            "architecture and max_out they were made with"
        )
    if bcos:
        inferred["max_out"] = max_out
    if "norm" not in given:
        inferred["norm"] = _norm(tensors, bcos)
    if NORM + "weight" in tensors:
        inferred["norm_affine"] = "full" if NORM + "bias" in tensors else "no-bias"
    elif inferred.get("norm", given.get("norm")) != "none":
        inferred["norm_affine"] = "none"
    return {**inferred, **given}


def _norm(tensors: Tensors, bcos: bool) -> str:
    variance = tensors.get(NORM + "running_var")
    if variance is not None:
        kind = "all" if variance.numel() == 1 else "batch"
        return f"{kind}-uncentred" if bcos else kind
    if any(name.startswith(NORM) for name in tensors):
        raise RequestError(
            "the weights have norms without running statistics, which could be group, instance, layer or position "
            "norms: name one with --argument norm=position-uncentred, say"
        )
    return "none"
