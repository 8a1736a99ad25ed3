"""What is refused before the first attack: each model is tried on a few images, before hours are spent on it."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from robustbench_bcos.bench.config import Space
from robustbench_bcos.bench.failures import remedy_for
from robustbench_bcos.core.adapted import adapted, as_logits
from robustbench_bcos.core.devices import is_out_of_memory
from robustbench_bcos.core.errors import RequestError, named_reason_of, reason_of
from robustbench_bcos.core.text import counted
from robustbench_bcos.core.types import Images
from robustbench_bcos.data.subset import EvalSubset
from robustbench_bcos.explanations.attachment import Explained
from robustbench_bcos.explanations.explanation import explain, method_for
from robustbench_bcos.model_zoo.classifier import ImageClassifier
from robustbench_bcos.model_zoo.models import Model

TRIED = 8
"""Images a method is tried on before a run begins."""

FIT = "choose models that fit"

CLASSES = {
    10: "CIFAR-10's, or those of digits",
    100: "CIFAR-100's",
    1000: "ImageNet's",
    1001: "ImageNet's and one for background",
    11221: "ImageNet-21k's without the rare ones",
    11821: "ImageNet-12k's",
    21841: "ImageNet-21k's",
    21843: "ImageNet-21k's",
}
"""Whose classes a model has, by their number."""


def check_model(
    model: Model, images: EvalSubset, *, device: str, space: Space, sized: bool = True, classes: bool = True
) -> None:
    """Try a model on two images of the subset.

    Args:
        model: of which logits and gradients are asked.
        images: the subset.
        device: where it is asked.
        space: that is attacked.
        sized: whether images must have the size that it was made for.
        classes: whether its outputs must be the classes of the dataset.

    Raises:
        RequestError: it was made for other images, does not give one logit per class, or gives NaN.
    """
    size = (images.image_shape[1], images.image_shape[2])
    if sized and model.image_size is not None and model.image_size != size:
        height, width = model.image_size
        remedy = "choose models or data that fit"
        if images.dataset.any_size:
            remedy = f"give --crop {height}, and --resize to what the shorter side should be before it"
        raise RequestError(
            f"model {model.name!r} takes images of {height}x{width} pixels and {images.dataset.name} has "
            f"{size[0]}x{size[1]}: {remedy}"
        )
    if space == "encoded" and not (
        isinstance(model.classifier, ImageClassifier) and model.classifier.encoding.unit_box
    ):
        raise RequestError(
            f"model {model.name!r} has no encoding that fills [0, 1], so --space encoded is not defined for it: "
            "choose other models, or --space image"
        )
    remedy = FIT
    if images.dataset.any_size:
        remedy = f"{FIT}, or another size of images with --resize and --crop"
    logits = try_model(model, images.batch(0, 2).images, device, remedy)
    tried, count = min(2, len(images)), len(images.class_names)
    if classes and logits.shape != (tried, count):
        raise RequestError(
            f"model {model.name!r} gives outputs of shape {tuple(logits.shape)} for {tried} images, and "
            f"{images.dataset.name} has {count} classes: it must give one logit per image and class"
            f"{_hint(logits.shape[1])}"
        )
    if not logits.isfinite().all():
        raise RequestError(f"model {model.name!r} gives NaN or infinite logits on clean images: check its weights")


def _hint(outputs: int) -> str:
    """Whose classes so many outputs are likely to be."""
    return f" ({outputs} are {CLASSES[outputs]})" if outputs in CLASSES else ""


def adapt_model(model: Model, images: Images, device: str) -> Model:
    """The model on a device; one that answers such images with more than logits, or with one, is adapted."""
    classifier = adapted(model.classifier.to(device), images.to(device))
    return model if classifier is model.classifier else replace(model, classifier=classifier)


def check_explanation(model: Model, explained: EvalSubset, method: str, device: str) -> None:
    """Try to explain a few images.

    Raises:
        RequestError: the method cannot serve the model.
    """
    try:
        explain(model.classifier.to(device), explained.batch(0, TRIED).images.to(device), method=method)
    except RequestError as error:
        raise RequestError(f"--explanation cannot serve model {model.name!r}: {error}") from None


def check_attackable(model: Model, images: EvalSubset, methods: Sequence[str], device: str) -> None:
    """Try to differentiate the maps of an image.

    Raises:
        RequestError: a method cannot serve the model, or has no derivative.
    """
    classifier = model.classifier.to(device)
    for method in methods:
        try:
            explained = Explained(classifier, method_for(classifier, method))
            with torch.enable_grad():
                leaf = images.batch(0, 1).images.to(device).requires_grad_()
                torch.autograd.grad(explained(leaf).sum(), leaf, allow_unused=True)
        except RequestError as error:
            raise RequestError(f"goal cannot be pursued for model {model.name!r}: {error}") from None
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            raise RequestError(
                f"goal cannot be pursued for model {model.name!r}: torch has no second derivative of its {method} "
                f"({_first_sentence(error)}); write its layers with operations that have one"
            ) from error


def try_model(model: Model, images: Images, device: str, remedy: str = FIT) -> torch.Tensor:
    """Logits of a model that may do anything.

    Raises:
        RequestError: it fails, with gradients or without, does not give one logit per image and class, or changes its
            input.
    """
    untouched = images.to(device)
    # These may be the user's own.
    tried = untouched.clone()
    try:
        with torch.no_grad():
            logits = as_logits(model.classifier.to(device)(tried), len(tried))
    except RequestError as error:  # Of what reads its logits.
        raise RequestError(str(error).replace("the model", f"model {model.name!r}", 1)) from None
    except (Exception, SystemExit) as error:
        raise RequestError(
            f"model {model.name!r} fails on images of shape {tuple(images.shape[1:])} ({_first_sentence(error)}): "
            f"{_other_channels(model, tried) or _of_sequences(model) or remedy}"
        ) from error
    if not torch.equal(tried, untouched):
        raise RequestError(f"model {model.name!r} changes the images it is given: it must work on a copy of them")
    _try_alone(model, tried[:1])
    _try_gradients(model, tried)
    return logits


def _try_alone(model: Model, image: Images) -> None:
    """The last image of a search is alone in its batch, whose axis some code drops then."""
    try:
        with torch.no_grad():
            as_logits(model.classifier(image), 1)
    except (Exception, SystemExit) as error:
        raise RequestError(
            f"model {model.name!r} fails on one image alone ({_first_sentence(error)}): it must keep the images' axis "
            "whatever its length, which squeeze() without a dim does not"
        ) from error


def _try_gradients(model: Model, images: Images) -> None:
    """Some code that has no gradient gives none, which is evidence; some fails, and would fail in the first step."""
    try:
        with torch.enable_grad():
            model.classifier(images.requires_grad_())
    except (Exception, SystemExit) as error:
        raise RequestError(
            f"model {model.name!r} fails where gradients are asked for ({_first_sentence(error)}): "
            f"{remedy_for(error, 'detach what has none')}"
        ) from error


def _other_channels(model: Model, images: Images) -> str:
    """The remedy for a model that fails on RGB images and answers grey ones, or the other way round."""
    channels = 4 - images.shape[1]
    other = images[:, :1].expand(-1, channels, -1, -1)
    try:
        with torch.no_grad():
            model.classifier(other)
    except (Exception, SystemExit):
        return ""
    return f"it takes images of {counted(channels, 'channel')}: give channels {channels}" if channels in (1, 3) else ""


def _of_sequences(model: Model) -> str:
    """The remedy for a network with a layer that takes no images, whatever their size."""
    kinds = (nn.Conv1d, nn.Conv3d, nn.RNNBase, nn.Embedding)
    layer = next((layer for layer in model.classifier.modules() if isinstance(layer, kinds)), None)
    if layer is None:
        return ""
    return f"its layer {type(layer).__name__} takes no images: put in front of it what makes its input of them"


def _first_sentence(error: BaseException) -> str:
    if isinstance(error, RequestError):
        return str(error).partition(": ")[0]
    # The messages of most other errors say nothing without their type.
    reason = reason_of if isinstance(error, RuntimeError | ValueError | AssertionError) else named_reason_of
    return reason(error).partition(". ")[0]
