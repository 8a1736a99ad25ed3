"""Rigorous upper bounds of the norms of convolutions with zero padding."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

GRID = 32
"""Frequencies along each axis at which a filter is examined."""


def convolution_norm(weight: Tensor, stride: Sequence[int], dilation: Sequence[int], groups: int) -> float:
    """At least the largest ratio of Euclidean norms of a zero-padded convolution's output and input.

    Sedghi et al. (2019) give the exact norm for circular padding, which for zero padding is no bound. With zero padding
    on any image the convolution is one on the infinite plane, between an embedding and a restriction, neither of which
    lengthens anything; a stride makes it one of stride 1 on blocks of pixels taken as channels, which only reorders
    the input. On the plane the norm is the supremum, over *all* frequencies, of the spectral norm of the filter's
    transform. Between the frequencies of a grid it is bounded by Bernstein's inequality: for unit vectors u and v at
    which the supremum S is attained, the real part f of u* W v along a line through it is of exponential type s, where
    s t = d1 |t1| + d2 |t2| for a filter of 2 d1 + 1 by 2 d2 + 1 blocks, so that f'^2 <= s^2 (S^2 - f^2) (Duffin and
    Schaeffer, 1937), hence f >= S cos(s t); the nearest frequency of the grid is no farther than pi / GRID along
    each axis.

    Args:
        weight: (output, input / groups, height, width), in float64.
        stride: along both axes.
        dilation: along both axes.
        groups: of channels.
    """
    blocks = _on_blocks(_dilated(weight, dilation), stride)
    height, width = blocks.shape[2:]
    transformed = torch.fft.fft2(blocks, s=(max(GRID, 8 * height), max(GRID, 8 * width)))
    sides = transformed.shape[2:]
    away = math.pi * sum((size - 1) / 2 / side for size, side in zip((height, width), sides, strict=True))
    # Frequencies of opposite sign have transforms that are each other's conjugates.
    matrices = transformed[..., : sides[1] // 2 + 1].unflatten(0, (groups, -1)).permute(3, 4, 0, 1, 2)
    return _spectral_norm(matrices) / math.cos(away)


def spectral_norm(matrix: Tensor) -> float:
    """The largest singular value of a matrix in float64."""
    return _spectral_norm(matrix)


def _spectral_norm(matrices: Tensor) -> float:
    """The largest of all, by the eigenvalues of the smaller of the two products with the transpose."""
    rows, columns = matrices.shape[-2:]
    gram = matrices @ matrices.mH if rows <= columns else matrices.mH @ matrices
    # An eigenvalue is off by less than this part of the largest one, or of the trace.
    largest = torch.linalg.eigvalsh(gram)[..., -1].max().clamp(min=0)
    return math.sqrt(float(largest) * (1 + 1e-10))


def overlaps(kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> int:
    """At most so many windows contain a given pixel."""
    return math.prod(
        math.ceil(length / step) if spacing == 1 else length
        for length, step, spacing in zip(kernel, stride, dilation, strict=True)
    )


def _dilated(weight: Tensor, dilation: Sequence[int]) -> Tensor:
    height, width = ((length - 1) * d + 1 for length, d in zip(weight.shape[2:], dilation, strict=True))
    spaced = weight.new_zeros(*weight.shape[:2], height, width)
    spaced[:, :, :: dilation[0], :: dilation[1]] = weight
    return spaced


def _on_blocks(weight: Tensor, stride: Sequence[int]) -> Tensor:
    """The filters of stride 1 on blocks of pixels, with a channel for each pixel of a block."""
    down, across = (-size % step for size, step in zip(weight.shape[2:], stride, strict=True))
    padded = F.pad(weight, (0, across, 0, down))
    parts = padded.unflatten(2, (-1, stride[0])).unflatten(4, (-1, stride[1]))
    blocks: Tensor = parts.permute(0, 1, 3, 5, 2, 4).flatten(1, 3)
    return blocks
