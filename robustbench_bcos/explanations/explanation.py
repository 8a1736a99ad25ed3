"""Why a model gave the logits it gave: one call for every method and every model."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.registry import Registry
from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.core.types import Images, Logits
from robustbench_bcos.explanations import post_hoc
from robustbench_bcos.explanations.attribution import Method
from robustbench_bcos.explanations.gradients import dynamic_weights, input_x_gradient
from robustbench_bcos.model_zoo.bcos.layers import is_bcos
from robustbench_bcos.model_zoo.classifier import ImageClassifier
from robustbench_bcos.model_zoo.encodings import Encoded

METHODS: Registry[Method] = Registry("explanation method")

METHODS.register("dynamic_weights", dynamic_weights)
METHODS.register("input_x_gradient", input_x_gradient)
METHODS.register("integrated_gradients", post_hoc.integrated_gradients)
METHODS.register("gradcam", post_hoc.gradcam)
METHODS.register("deeplift", post_hoc.deeplift)
METHODS.register("lime", post_hoc.lime)


Asked = Int[Tensor, " row"] | Int[Tensor, "row target"]
"""Targets as they are asked for: a wrong number of them is the caller's to hear of, so the axis has its own name."""


class Explanation(NamedTuple):
    """Why each target's logit is what it is. Without an axis of targets where one was asked for each image."""

    weights: Float[Tensor, "*image channel height width"] | None
    """What each encoded value was multiplied with; ``None`` for methods without weights (gradcam, lime)."""
    contributions: Float[Tensor, "*image height width"]
    """Signed share of each position, summed over channels. For dynamic weights they sum to the logit without its bias,
    unless :func:`~robustbench_bcos.explanations.completeness.additive_constants` names layers, whose share is what is
    left (a vision transformer's position code, say); for input x gradient to nothing in particular; for integrated
    gradients and deeplift to the change of the logit from an encoded image of zeros."""
    logits: Logits
    targets: Int[Tensor, "*image"]
    """The logit each map explains."""


def explain(
    model: nn.Module,
    images: Images,
    targets: Asked | None = None,
    method: str = "auto",
    *,
    generator: PerImageRng | None = None,
) -> Explanation:
    """Explain a batch in one go; nothing that is handed over is changed.

    Args:
        model: a frozen classifier. Of one with an encoding, the encoded image is explained: for B-cos networks the six
            channels; of any other module, the images themselves.
        images: RGB in [0, 1].
        targets: the logit to explain of each image, or several of each, (image, target); by default the largest.
        method: ``dynamic_weights``, ``input_x_gradient``, ``integrated_gradients``, ``gradcam``, ``deeplift``,
            ``lime``; ``auto`` is dynamic weights for B-cos networks and input x gradient for others.
        generator: of methods that draw (lime); without one, image i draws as index i of seed 0.

    Raises:
        RequestError: unknown method, one that cannot serve the model, or a target the model has no logit for.
    """
    encoded, network = _taken_apart(model, images)
    # Of no images all methods say the same, but captum's fail on them.
    attribute = METHODS[method_for(model, method)] if len(images) else input_x_gradient
    if targets is not None:
        _check_targets(network, encoded, targets)
    several = targets is not None and targets.dim() == 2
    asked = targets if targets is None or several else targets[:, None]
    source = generator or PerImageRng.of(0, range(len(images)))
    found = attribute(network, encoded, asked, source)
    if several:
        return Explanation(*found)
    weights = None if found.weights is None else found.weights[:, 0]
    return Explanation(weights, found.contributions[:, 0], found.logits, found.targets[:, 0])


def method_for(model: nn.Module, asked: str = "auto") -> str:
    """The method that ``auto`` is for this model, or the one asked for."""
    if asked != "auto":
        return asked
    return "dynamic_weights" if is_bcos(model) else "input_x_gradient"


def _taken_apart(model: nn.Module, images: Images) -> tuple[Encoded, nn.Module]:
    """What the network behind the encoding takes, and the network."""
    if isinstance(model, ImageClassifier):
        return model.encoding(images), model.network
    return images, model


def _check_targets(network: nn.Module, encoded: Images, targets: Tensor) -> None:
    with torch.no_grad():
        classes = network(encoded[:1]).shape[1] if len(encoded) else 0
    if len(targets) != len(encoded):
        raise RequestError(f"targets are for {len(targets)} images and there are {len(encoded)}: give a row for each")
    if bool(((targets < 0) | (targets >= classes)).any()):
        wrong = int(targets[(targets < 0) | (targets >= classes)][0])
        raise RequestError(f"target {wrong} is not a class of this model: choose from 0 to {classes - 1}")
