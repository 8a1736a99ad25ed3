"""Why a model gave the logits it gave: one call for every method and every model."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustbench_bcos.core.adapted import Adapted, differentiable, in_evaluation_mode, like_parameters
from robustbench_bcos.core.arrays import Array, is_loader, read_images, read_pairs
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.core.types import AnyModel, Float, Images, Int, Logits
from robustbench_bcos.explanations import METHODS
from robustbench_bcos.explanations.contrast import Contrasted
from robustbench_bcos.model_zoo.classifier import ImageClassifier
from robustbench_bcos.model_zoo.encodings import Encoded

Targets = Int[Tensor, "image target"]
"""Several logits to explain for each image."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Explanation:
    """Why each target's logit is what it is, for one target of each image or, with one more axis, for several."""

    weights: Float[Tensor, "*target channel height width"] | None
    """What each encoded value was multiplied with; ``None`` for methods without weights (gradcam, lime)."""
    contributions: Float[Tensor, "*target height width"]
    """Signed share of each position, summed over channels. For dynamic weights they sum to the logit without its bias,
    unless :func:`~robustbench_bcos.explanations.completeness.additive_constants` names layers, whose share is what is
    left (a vision transformer's position code, say); for input x gradient to nothing in particular; for integrated
    gradients and deeplift to the change of the logit from an encoded image of zeros."""
    logits: Logits
    """All logits of each image, those that are not explained included."""
    targets: Int[Tensor, "*target"]
    """The class that each map explains."""

    def of_target(self, position: int) -> "Explanation":
        """The explanation of one of several targets, by its position among them."""
        return Explanation(
            weights=None if self.weights is None else self.weights[:, position],
            contributions=self.contributions[:, position],
            logits=self.logits,
            targets=self.targets[:, position],
        )


def explain(
    model: AnyModel,
    images: Array,
    targets: Tensor | int | Sequence[int] | Sequence[Sequence[int]] | None = None,
    method: str = "auto",
    *,
    contrast: str | None = None,
    rng: PerImageRng | None = None,
    target: object = None,
) -> Explanation:
    """Explain a batch in one go; nothing that is handed over is changed.

    Args:
        model: a classifier, any callable from images to logits; it is asked in evaluation mode and left as it was. Of
            one with an encoding, the encoded image is explained: for B-cos networks the six channels; of any other
            model, the images themselves.
        images: of shape (image, channel, height, width), floating-point in [0, 1] or uint8, a tensor or an array. Or a
            DataLoader or dataset of images and labels, whose images are read into memory.
        targets: the class to explain: one for all images, one for each, or several for each, (image, target); by
            default the class of the largest logit.
        method: the name of one of ``METHODS``; ``auto`` is the one made for the model, dynamic weights for B-cos
            networks and input x gradient for others.
        contrast: explain by how much a logit is above another one: ``runner_up``, the largest of the other classes, or
            ``mean``, the mean of all; ``logits`` are these differences then. By default the logit itself.
        rng: of methods that draw (lime); without one, image i draws as index i of seed 0.
        target: not a parameter; captum's name is answered by ours.

    Raises:
        RequestError: unknown method or contrast, one that cannot explain the model, images that are no such tensor, or
            targets that are not classes of the model.
    """
    if target is not None:
        raise RequestError(f"explain has no parameter target: give targets={target!r}")
    # A compiled model's graph is freed by its first backward pass, and several targets need several.
    model = getattr(model, "_orig_mod", model)
    with in_evaluation_mode(model):
        given = read_pairs(images, rgb=False)[0] if is_loader(images) else read_images(images, rgb=False)
        return explain_any(model, given, targets, method, contrast=contrast, rng=rng)


def explain_any(
    model: AnyModel,
    images: Images,
    targets: Tensor | int | Sequence[int] | Sequence[Sequence[int]] | None = None,
    method: str = "auto",
    *,
    contrast: str | None = None,
    rng: PerImageRng | None = None,
) -> Explanation:
    """:func:`explain` of a model in evaluation mode and of tensors of any range, such as images under noise."""
    asked = differentiable(model) if isinstance(model, ImageClassifier) else Adapted(model)
    encoded, network = encode(asked, images)
    network = network if contrast is None else Contrasted(network, contrast)
    name = method_for(asked, method)
    # Of no images all methods say the same, but captum's fail on them.
    chosen = METHODS[name if len(encoded) else "input_x_gradient"]
    wanted = None if targets is None else check_targets(network, encoded, targets)
    several = wanted is not None and wanted.dim() == 2
    columns = wanted if wanted is None or several else wanted[:, None]
    try:
        found = chosen(network, encoded, columns, rng or PerImageRng.of(0, range(len(encoded))))
    except RuntimeError:
        if chosen.differentiates and not _gives_gradients(network, encoded[:1]):
            without = ", ".join(other for other in METHODS if not METHODS[other].differentiates)
            raise RequestError(
                f"{name} differentiates the model and this one gives no gradients: choose a method without ({without})"
            ) from None
        raise
    except ValueError as error:
        if "nan" not in str(error).lower():
            raise
        raise RequestError(
            f"{name} needs logits that are numbers, of images that are partly switched off, too, and those of this "
            "model are NaN or infinite: mend the model, leave such images out, or choose another method"
        ) from None
    return found if several else found.of_target(0)


def method_for(model: nn.Module, method: str = "auto") -> str:
    """The method that ``auto`` is for this model, or the one that was named."""
    network = model.network if isinstance(model, ImageClassifier) else model
    # A method knows the networks that it is made for, and not what they are wrapped in.
    made_for = network.model if isinstance(network, Adapted) and isinstance(network.model, nn.Module) else network
    return max(METHODS, key=lambda name: METHODS[name].preference(made_for)) if method == "auto" else method


def encode(model: nn.Module, images: Images) -> tuple[Encoded, nn.Module]:
    """What the network behind the encoding takes, and the network."""
    if isinstance(model, ImageClassifier):
        return model.encoding(like_parameters(model, images)), model.network
    return images, model


def check_targets(
    network: nn.Module, encoded: Images, targets: Tensor | int | Sequence[int] | Sequence[Sequence[int]]
) -> Tensor:
    """Class numbers of shape (image,) or (image, target)."""
    try:
        wanted = torch.as_tensor(targets, device=encoded.device)
    except (TypeError, ValueError, RuntimeError):
        wanted = None
    if wanted is None or wanted.is_floating_point() or wanted.dtype == torch.bool or wanted.dim() > 2:
        got = f"{targets.dtype} of shape {tuple(targets.shape)}" if isinstance(targets, Tensor) else repr(targets)
        raise RequestError(
            f"targets must be class numbers, got {got}: give one for all images, one for each, or a row for each"
        )
    wanted = wanted.long().expand(len(encoded)) if wanted.dim() == 0 else wanted.long()
    if len(wanted) != len(encoded):
        raise RequestError(f"targets are for {len(wanted)} images and there are {len(encoded)}: give a row for each")
    with torch.no_grad():
        classes = network(encoded[:1]).shape[1] if len(encoded) else 0
    wrong = wanted[(wanted < 0) | (wanted >= classes)].tolist()
    if wrong:
        raise RequestError(f"target {wrong[0]} is not a class of this model: choose from 0 to {classes - 1}")
    return wanted


def _gives_gradients(network: nn.Module, image: Images) -> bool:
    with torch.enable_grad():
        logits: Tensor = network(image.detach().clone().requires_grad_())
    return logits.requires_grad
