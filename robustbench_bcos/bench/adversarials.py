"""Adversarial examples that are kept, to be tried on other models."""

from collections.abc import Sequence

import numpy as np
import torch

from robustbench_bcos.bench.rounding import LEVELS
from robustbench_bcos.core.types import Images

KEPT = 64
"""Images of an evaluation subset whose adversarial examples are kept, the first ones."""


def to_bytes(adversarial: torch.Tensor) -> bytes:
    """Its pixels as float32: another model is asked about the very pixels that were proposed."""
    return adversarial.cpu().numpy().astype("<f4").tobytes()


def to_levels(images: torch.Tensor) -> bytes:
    """Pixels of an image that holds 256 levels, a byte each."""
    return (images * LEVELS).round().byte().cpu().numpy().tobytes()


def from_bytes(pixels: Sequence[bytes], shape: Sequence[int]) -> Images:
    """The inverse of :func:`to_bytes`, for several of one shape.

    Raises:
        ValueError: the pixels are not those of such images.
    """
    arrays = [np.frombuffer(content, dtype="<f4").reshape(tuple(shape)) for content in pixels]
    return torch.from_numpy(np.stack(arrays).astype(np.float32))
