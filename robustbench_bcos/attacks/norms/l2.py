"""The Euclidean norm."""

import math
from collections.abc import Sequence
from typing import final

from robustbench_bcos.attacks import NORMS
from robustbench_bcos.attacks.norm import AbstractNorm, broadcast, or_one
from robustbench_bcos.core.deferred import torch
from robustbench_bcos.core.types import Epsilon, Images, PerImage


@final
@NORMS.registered("l2")
class L2(AbstractNorm):
    """The root of the summed squares of all changes is at most epsilon."""

    leaderboard = "L2"
    largest_change = 1.0

    def size(self, perturbation: Images) -> PerImage:
        """Euclidean norm of the flattened perturbation."""
        # Summed in float64: over 150,000 pixels, float32 is off by more than the judge allows.
        norms: PerImage = torch.linalg.vector_norm(perturbation.flatten(1), dim=1, dtype=torch.float64)
        return norms.to(perturbation.dtype)

    def steepest_ascent(self, gradient: Images, iterates: Images | None = None) -> Images:
        """The gradient over its norm."""
        # Scaling by the largest entry first keeps the squares of tiny and of huge gradients representable.
        largest = gradient.flatten(1).abs().amax(dim=1)
        scaled = gradient / broadcast(or_one(largest))
        return scaled / broadcast(or_one(self.size(scaled)))

    def project_onto_ball(self, perturbation: Images, epsilon: Epsilon) -> Images:
        """Shorten what is too long."""
        # reciprocal() * epsilon is what torch computes for ``epsilon / sizes``; writing it out keeps one epsilon for
        # all images and one for each bit-identical.
        factor = (or_one(self.size(perturbation)).reciprocal() * epsilon).clamp(max=1.0)
        return perturbation * broadcast(factor)

    def sample(self, shape: Sequence[int], epsilon: float, generators: "Sequence[torch.Generator]") -> Images:
        """A Gaussian direction at radius epsilon * u^(1/d): uniform in volume."""
        directions = [torch.randn(*shape, generator=generator) for generator in generators]
        radii = torch.cat([torch.rand(1, generator=generator) for generator in generators])
        return self.steepest_ascent(torch.stack(directions)) * broadcast(epsilon * radii ** (1 / math.prod(shape)))

    def longest(self, shape: Sequence[int]) -> float:
        """The same."""
        return 1.0

    def diameter(self, shape: Sequence[int]) -> float:
        """Root of the number of values."""
        return math.sqrt(math.prod(shape))
