"""A norm of one's own: the colour of each pixel moves by at most epsilon, in the Euclidean norm over channels."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from robustbench_bcos.attacks import NORMS
from robustbench_bcos.attacks.norm import AbstractNorm, or_one
from robustbench_bcos.core.types import Epsilon, Images, PerImage


@NORMS.registered("pixel_l2")
class PixelL2(AbstractNorm):
    """The largest Euclidean change of a pixel's colour."""

    def size(self, perturbation: Images) -> PerImage:
        return torch.linalg.vector_norm(perturbation, dim=1).flatten(1).amax(dim=1)

    def steepest_ascent(self, gradient: Images, iterates: Images | None = None) -> Images:
        # Scaled by the largest entry first, so that squares of tiny and of huge gradients can be represented.
        scaled = gradient / or_one(gradient.abs().amax(dim=1, keepdim=True))
        return scaled / or_one(torch.linalg.vector_norm(scaled, dim=1, keepdim=True))

    def project_onto_ball(self, perturbation: Images, epsilon: Epsilon) -> Images:
        bound = epsilon[:, None, None, None] if isinstance(epsilon, Tensor) else epsilon
        sizes = torch.linalg.vector_norm(perturbation, dim=1, keepdim=True)
        return perturbation * (bound / or_one(sizes)).clamp(max=1)

    def sample(self, shape: Sequence[int], epsilon: float, generators: Sequence[torch.Generator]) -> Images:
        draws = torch.stack([torch.randn(*shape, generator=generator) for generator in generators])
        radii = torch.stack([torch.rand(1, *shape[1:], generator=generator) for generator in generators])
        return self.steepest_ascent(draws) * epsilon * radii ** (1 / shape[0])

    def diameter(self, shape: Sequence[int]) -> float:
        return math.sqrt(shape[0])
