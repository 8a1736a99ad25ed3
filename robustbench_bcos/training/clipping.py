"""Gradients that are clipped by the size of what they move (Brock et al., 2021)."""

from collections.abc import Iterable

import torch
from torch import Tensor

SMALLEST = 1e-3
"""Norm that a unit of weights counts for, at least; otherwise one that is 0 could never move."""


def clip_by_weights(parameters: Iterable[Tensor], share: float) -> None:
    """Scale the gradient of each unit, such as a filter, down to a share of the unit's norm.

    Args:
        parameters: with their gradients, which are changed.
        share: the largest ratio of the two norms.
    """
    for parameter in parameters:
        if parameter.grad is None:
            continue
        norms, gradients = _norms(parameter.detach()), _norms(parameter.grad)
        largest = norms.clamp_min(SMALLEST) * share
        parameter.grad.mul_(torch.where(gradients > largest, largest / gradients, torch.ones_like(gradients)))


def _norms(tensor: Tensor) -> Tensor:
    """Of each unit; a vector is one unit."""
    if tensor.dim() < 2:
        norm: Tensor = torch.linalg.vector_norm(tensor)
        return norm
    norms: Tensor = torch.linalg.vector_norm(tensor.flatten(1), dim=1)
    return norms.view(-1, *[1] * (tensor.dim() - 1))
