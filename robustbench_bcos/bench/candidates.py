"""Candidates that are kept, to be tried on other models."""

from collections.abc import Sequence

import numpy as np
import torch

from robustbench_bcos.core.types import Images

KEPT = 64
"""Images of a slice whose candidates are kept, the first ones."""


def packed(candidate: torch.Tensor) -> bytes:
    """Its pixels as float32: what is judged on another model is bit by bit what was proposed."""
    return candidate.cpu().numpy().astype("<f4").tobytes()


def unpacked(pixels: Sequence[bytes], shape: Sequence[int]) -> Images:
    """The inverse of :func:`packed`, for several of one shape.

    Raises:
        ValueError: the pixels are not those of such images.
    """
    arrays = [np.frombuffer(content, dtype="<f4").reshape(tuple(shape)) for content in pixels]
    return torch.from_numpy(np.stack(arrays).astype(np.float32))
