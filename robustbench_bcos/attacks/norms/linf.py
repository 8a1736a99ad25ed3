"""The largest change of a pixel."""

import math
from collections.abc import Sequence
from typing import final

from robustbench_bcos.attacks import NORMS
from robustbench_bcos.attacks.norm import AbstractNorm, broadcast
from robustbench_bcos.core.deferred import torch
from robustbench_bcos.core.types import Epsilon, Images, PerImage, Tensor


@final
@NORMS.registered("linf")
class Linf(AbstractNorm):
    """Each pixel changes by at most epsilon."""

    in_levels = True
    leaderboard = "Linf"
    largest_change = 1.0

    def size(self, perturbation: Images) -> PerImage:
        """Largest change of a pixel."""
        return perturbation.flatten(1).abs().amax(dim=1)

    def steepest_ascent(self, gradient: Images, iterates: Images | None = None) -> Images:
        """Sign of the gradient (Goodfellow et al., 2015)."""
        return gradient.sign()

    def project_onto_ball(self, perturbation: Images, epsilon: Epsilon) -> Images:
        """Clip each pixel's change."""
        if isinstance(epsilon, Tensor):
            bounds = broadcast(epsilon)
            return perturbation.clamp(-bounds, bounds)
        return perturbation.clamp(-epsilon, epsilon)

    def sample(self, shape: Sequence[int], epsilon: float, generators: "Sequence[torch.Generator]") -> Images:
        """Each pixel uniform in [-epsilon, epsilon]."""
        draws = [torch.rand(*shape, generator=generator) for generator in generators]
        return (2 * torch.stack(draws) - 1) * epsilon

    def longest(self, shape: Sequence[int]) -> float:
        """That of a corner of the ball."""
        return math.sqrt(math.prod(shape))

    def diameter(self, shape: Sequence[int]) -> float:
        """The pixel range."""
        return 1.0
