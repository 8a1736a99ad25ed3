"""Images and labels as users hand them over: checked and converted before a model sees them."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.types import Images, Labels

SHAPE = "(image, 3, height, width)"

Array = Any
"""A tensor, or what NumPy makes an array of. Not said to the type checkers of tests, which would refuse it first."""


def read_images(given: Array) -> Images:
    """RGB images in [0, 1] as float32 tensors; bytes are divided by 255.

    Raises:
        RequestError: they are of another shape, type or range.
    """
    images = _tensor("images", given, f"give a tensor or an array of shape {SHAPE}")
    _check_shape(images, isinstance(given, Tensor))
    if images.dtype == torch.uint8:
        return images.float() / 255
    if not images.is_floating_point():
        raise RequestError(
            f"images must be floating-point numbers in [0, 1] or uint8, got {_dtype(images)}: divide them by 255"
        )
    if not images.isfinite().all():
        raise RequestError("images must be finite, got NaN or infinite values: repair or leave out those images")
    low, high = images.min().item(), images.max().item()
    if low < 0 or high > 1:
        remedy = "divide them by 255" if low >= 0 else "undo the normalisation, which belongs inside the model"
        raise RequestError(f"images must have values in [0, 1], got {low:g} to {high:g}: {remedy}")
    return images.detach().float()


def read_labels(given: Array, count: int) -> Labels:
    """One class per image, as whole numbers; one-hot rows are read as their class.

    Raises:
        RequestError: there are more or fewer than images, or they are no classes.
    """
    labels = _tensor("labels", given, f"give one class for each of the {count} images")
    if labels.dim() == 2 and labels.shape[1] > 1:
        if not bool(((labels == 0) | (labels == 1)).all() and (labels.sum(dim=1) == 1).all()):
            raise RequestError(
                f"labels of shape {tuple(labels.shape)} must be one-hot, a single 1 in each row: give one class for "
                "each image"
            )
        labels = labels.int().argmax(dim=1)
    if labels.shape != (count,):
        raise RequestError(
            f"labels must be one class for each of the {count} images, got shape {tuple(labels.shape)}: give {count} "
            "whole numbers"
        )
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise RequestError(f"labels must be whole numbers, got {_dtype(labels)}: convert them with labels.astype(int)")
    return labels.detach().cpu().long()


def _tensor(name: str, given: Array, remedy: str) -> Tensor:
    """What was handed over as a tensor, with the type its values have."""
    if isinstance(given, Tensor):
        return given
    if not isinstance(given, np.ndarray | list | tuple):
        raise RequestError(
            f"{name} must be in memory, got {type(given).__name__}: {remedy}, such as the batches of a DataLoader "
            "joined by torch.cat"
        )
    try:
        parts = [np.asarray(part) for part in given] if isinstance(given, list | tuple) else given
        # A copy, because torch warns of arrays that it may not write to.
        return torch.from_numpy(np.array(parts))
    except (TypeError, ValueError, RuntimeError):
        kind = given.dtype if isinstance(given, np.ndarray) else "values that do not fit together"
        raise RequestError(f"{name} must be numbers, got {kind}: {remedy}") from None


def _check_shape(images: Tensor, is_tensor: bool) -> None:
    shape = tuple(images.shape)
    if images.numel() == 0:
        raise RequestError(f"images must not be empty, got shape {shape}: give at least one")
    remedy = f"give RGB images of shape {SHAPE}"
    if len(shape) == 4 and shape[1] == 3:
        return
    if len(shape) == 4 and shape[3] == 3:
        remedy = f"put channels first with images.{'permute' if is_tensor else 'transpose'}(0, 3, 1, 2)"
    elif len(shape) == 4 and shape[1] == 1:
        remedy = f"repeat the grey channel with images.{'repeat(1, 3, 1, 1)' if is_tensor else 'repeat(3, axis=1)'}"
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
