"""Images and labels as users hand them over: checked and converted before a model sees them."""

from typing import Any

from robustbench_bcos.core.deferred import numpy as np
from robustbench_bcos.core.deferred import torch
from robustbench_bcos.core.errors import RequestError, reason_of
from robustbench_bcos.core.types import Images, Labels, Tensor

SHAPE = "(image, 3, height, width)"

Array = Any
"""A tensor, or what NumPy makes an array of. Not said to the type checkers of tests, which would refuse it first."""


LIKE_CHANNELS = (1, 3, 4, 6)
"""Numbers of channels that images have, encoded ones included: a larger one in their place is probably a height."""


def read_images(given: Array, *, rgb: bool = True, channels: int = 3) -> Images:
    """Images in [0, 1] as tensors of their own precision, at least float32; bytes are divided by 255.

    Args:
        given: of shape (image, channel, height, width).
        rgb: whether they must have so many channels.
        channels: 3, or 1 for grey images.

    Raises:
        RequestError: they are of another shape, type or range.
    """
    images = _tensor(
        "images", given, f"give a tensor or an array of shape {SHAPE}, such as the batches of a DataLoader joined"
    )
    if channels == 1 and images.dim() == 3:
        images = images[:, None]
    _check_shape(images, isinstance(given, Tensor), rgb=rgb, channels=channels)
    if images.dtype == torch.uint8:
        return images.float() / 255
    if not images.is_floating_point():
        raise RequestError(
            f"images must be floating-point numbers in [0, 1] or uint8, got {_dtype(images)}: {_divided(images)}"
        )
    if images.numel() == 0:
        return images
    if not images.isfinite().all():
        raise RequestError("images must be finite, got NaN or infinite values: repair or leave out those images")
    low, high = images.min().item(), images.max().item()
    if low < 0 or high > 1:
        remedy = _divided(images) if low >= 0 else "undo the normalisation, which belongs inside the model"
        if low > -0.1 and high < 1.1:
            remedy = "clip them to [0, 1]"
        raise RequestError(f"images must have values in [0, 1], got {low:g} to {high:g}: {remedy}")
    # Of what was made in inference mode, a copy: autograd can do nothing with it.
    images = images.clone() if images.is_inference() else images.detach()
    return images if images.dtype == torch.float64 else images.float()


def _divided(images: Tensor) -> str:
    """The remedy for pixels of another range; what is divided by too much is dark, and nothing refuses it."""
    high = images.max().item() if images.numel() else 255
    return f"divide them by {'255' if 128 <= high <= 255 else 'the largest value that a pixel can have'}"


def read_pairs(
    given: Array, labels: Array | None = None, *, rgb: bool = True, channels: int = 3
) -> tuple[Images, Labels]:
    """Images and their labels, from two arrays, or from a dataset or loader that gives both.

    Args:
        given: images, or an iterable or a dataset of (image, label), or of batches of them, which are joined in order.
        labels: with images alone.
        rgb: as of :func:`read_images`.
        channels: that images must have: 3, or 1.

    Raises:
        RequestError: one of them is missing, or is not as :func:`read_images` and :func:`read_labels` take it.
    """
    if labels is None:
        given, labels = _joined(given)
    images = read_images(given, rgb=rgb, channels=channels)
    return images, read_labels(labels, len(images))


def is_loader(given: Array) -> bool:
    """Whether it is no array, and gives images with labels: a DataLoader, or a dataset."""
    return not isinstance(given, Tensor | np.ndarray | str | list | tuple) and (
        hasattr(given, "__getitem__") or hasattr(given, "__iter__")
    )


def read_labels(given: Array, count: int, *, name: str = "labels") -> Labels:
    """One class per image, as whole numbers on the CPU; one-hot rows are read as their class.

    A column of classes is read as classes, and so are floating-point numbers that are whole.

    Raises:
        RequestError: there are more or fewer than images, or they are no classes.
    """
    labels = _tensor(name, given, f"give one class for each of the {count} images").detach().cpu()
    if labels.shape == (count, 1):
        labels = labels.squeeze(1)
    if labels.dim() == 2:
        if not bool(((labels == 0) | (labels == 1)).all() and (labels.sum(dim=1) == 1).all()):
            raise RequestError(
                f"{name} of shape {tuple(labels.shape)} must be one-hot, a single 1 in each row: give one class for "
                "each image"
            )
        labels = labels.int().argmax(dim=1)
    if labels.shape != (count,):
        raise RequestError(
            f"{name} must be one class for each of the {count} images, got shape {tuple(labels.shape)}: give {count} "
            "whole numbers"
        )
    whole = labels.long()
    if labels.dtype == torch.bool or labels.is_complex() or not torch.equal(whole.to(labels.dtype), labels):
        raise RequestError(f"{name} must be whole numbers, got {_dtype(labels)}: give the class of each image")
    if bool((whole < 0).any()):
        raise RequestError(f"{name} must be classes from 0, got {int(whole.min())}: number the classes from 0")
    return whole


def _joined(given: Array) -> tuple[Tensor, Tensor]:
    """What a dataset or a loader gives, with the images in one tensor and the labels in another."""
    if isinstance(given, Tensor | np.ndarray | str) or not hasattr(given, "__getitem__") | hasattr(given, "__iter__"):
        raise RequestError(
            "labels are missing: give one class for each image, or in place of images a DataLoader or a dataset of "
            "(image, label)"
        )
    items = given if hasattr(given, "__iter__") else (given[place] for place in range(len(given)))
    images, labels = [], []
    for item in items:
        if not isinstance(item, tuple | list) or len(item) < 2:
            raise RequestError(
                f"a dataset or loader must give (image, label) or batches of them, got {type(item).__name__}: put a "
                "generator of such pairs in its place"
            )
        image = _tensor("images", item[0], "give a dataset the transform torchvision.transforms.ToTensor()")
        label = _tensor("labels", item[1] if isinstance(item[1], Tensor | np.ndarray) else np.asarray(item[1]), "")
        alone = image.dim() == 3
        images.append(image[None] if alone else image)
        labels.append(label[None] if alone else label)
    try:
        return torch.cat(images), torch.cat(labels)
    except (RuntimeError, ValueError) as error:
        raise RequestError(
            f"images and labels of a dataset or loader must fit together ({reason_of(error)}): give all images one size"
        ) from None


def _tensor(name: str, given: Array, remedy: str) -> Tensor:
    """What was handed over as a tensor, with the type its values have."""
    if isinstance(given, Tensor):
        return given
    if not isinstance(given, np.ndarray | list | tuple):
        raise RequestError(f"{name} must be in memory, got {type(given).__name__}: {remedy}")
    try:
        parts = [np.asarray(part) for part in given] if isinstance(given, list | tuple) else given
        # A copy, because torch warns of arrays that it may not write to.
        return torch.from_numpy(np.array(parts))
    except (TypeError, ValueError, RuntimeError):
        kind = given.dtype if isinstance(given, np.ndarray) else "values that do not fit together"
        raise RequestError(f"{name} must be numbers, got {kind}: {remedy}") from None


def _check_shape(images: Tensor, is_tensor: bool, *, rgb: bool, channels: int) -> None:
    shape = tuple(images.shape)
    if rgb and images.numel() == 0:
        raise RequestError(f"images must not be empty, got shape {shape}: give at least one")
    remedy = f"give RGB images of shape {SHAPE}"
    channels_last = len(shape) == 4 and shape[3] in LIKE_CHANNELS and shape[1] > max(LIKE_CHANNELS)
    if channels == 1:
        if len(shape) == 4 and shape[1] == 1:
            return
        raise RequestError(
            f"images must be of shape (image, 1, height, width) with channels 1, got {shape}: leave channels out for "
            "RGB images, or give grey ones"
        )
    if len(shape) == 4 and (shape[1] == 3 or not (rgb or channels_last)):
        return
    if len(shape) == 4 and (shape[3] == 3 or channels_last):
        remedy = f"put channels first with images.{'permute' if is_tensor else 'transpose'}(0, 3, 1, 2)"
    elif len(shape) == 4 and shape[1] == 1:
        remedy = (
            "give channels=1 if the model takes grey images, or repeat the grey channel with "
            f"images.{'repeat(1, 3, 1, 1)' if is_tensor else 'repeat(3, axis=1)'}"
        )
    elif len(shape) == 4 and shape[1] == 4:
        remedy = "leave the alpha channel out with images[:, :3]"
    elif len(shape) == 3 and shape[0] == 3:
        remedy = "of a single image, make a batch with images[None]"
    elif len(shape) == 3:
        remedy = "repeat grey images over three channels with " + (
            "images[:, None].repeat(1, 3, 1, 1)" if is_tensor else "images[:, None].repeat(3, axis=1)"
        )
    raise RequestError(f"images must be of shape {SHAPE}, got {shape}: {remedy}")


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
