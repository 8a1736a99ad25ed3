"""The geometry of a threat: which deltas are allowed, and which way is steepest.

Epsilons are in units of the pixel range [0, 1]. A new norm is one more class.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, final

import torch
from torch import Tensor

from robustbench_bcos.core.registry import Registry
from robustbench_bcos.core.types import Epsilon, Images, PerImage

NORMS: Registry["AbstractNorm"] = Registry("norm")


class AbstractNorm(ABC):
    """Deltas of bounded norm, around each image."""

    name: ClassVar[str]

    @abstractmethod
    def size(self, delta: Images) -> PerImage:
        """Norm of each delta."""

    @abstractmethod
    def ascend(self, gradient: Images) -> Images:
        """The delta of size 1 along which a linear function with this gradient grows most; 0 where the gradient is 0.

        It depends on the gradient's direction alone: no guard is added to a norm, so that a gradient of 1e-30 moves
        an image as far as one of 1.
        """

    @abstractmethod
    def project(self, delta: Images, epsilon: Epsilon) -> Images:
        """The nearest delta of size at most epsilon, in the 2-norm; each image may have an epsilon of its own."""

    @abstractmethod
    def sample(self, shape: Sequence[int], epsilon: float, generators: Sequence[torch.Generator]) -> Images:
        """One float32 delta per generator, uniform in the ball, on the CPU.

        Args:
            shape: of one image, (channel, height, width).
            epsilon: radius.
            generators: one per image.
        """

    @abstractmethod
    def diameter(self, shape: Sequence[int]) -> float:
        """Distance between opposite corners of the pixel box: no larger epsilon allows anything more."""

    def __repr__(self) -> str:
        return self.name


@final
class Linf(AbstractNorm):
    """Each pixel changes by at most epsilon."""

    name = "linf"

    def size(self, delta: Images) -> PerImage:
        """Largest change of a pixel."""
        return delta.flatten(1).abs().amax(dim=1)

    def ascend(self, gradient: Images) -> Images:
        """Sign of the gradient (Goodfellow et al., 2015)."""
        return gradient.sign()

    def project(self, delta: Images, epsilon: Epsilon) -> Images:
        """Clip each pixel's change."""
        if isinstance(epsilon, Tensor):
            bounds = _broadcast(epsilon)
            return delta.clamp(-bounds, bounds)
        return delta.clamp(-epsilon, epsilon)

    def sample(self, shape: Sequence[int], epsilon: float, generators: Sequence[torch.Generator]) -> Images:
        """Each pixel uniform in [-epsilon, epsilon]."""
        draws = [torch.rand(*shape, generator=generator) for generator in generators]
        return (2 * torch.stack(draws) - 1) * epsilon

    def diameter(self, shape: Sequence[int]) -> float:
        """The pixel range."""
        return 1.0


@final
class L2(AbstractNorm):
    """The root of the summed squares of all changes is at most epsilon."""

    name = "l2"

    def size(self, delta: Images) -> PerImage:
        """Euclidean norm of the flattened delta."""
        # Summed in float64: over 150,000 pixels, float32 is off by more than the judge allows.
        norms: PerImage = torch.linalg.vector_norm(delta.flatten(1), dim=1, dtype=torch.float64).to(delta.dtype)
        return norms

    def ascend(self, gradient: Images) -> Images:
        """The gradient over its norm."""
        # Scaling by the largest entry first keeps the squares of tiny and of huge gradients representable.
        largest = gradient.flatten(1).abs().amax(dim=1)
        scaled = gradient / _broadcast(_or_one(largest))
        return scaled / _broadcast(_or_one(self.size(scaled)))

    def project(self, delta: Images, epsilon: Epsilon) -> Images:
        """Shorten what is too long."""
        # As a number over a tensor is worked out, so that one epsilon for each image changes no bit.
        factor = (_or_one(self.size(delta)).reciprocal() * epsilon).clamp(max=1.0)
        return delta * _broadcast(factor)

    def sample(self, shape: Sequence[int], epsilon: float, generators: Sequence[torch.Generator]) -> Images:
        """A Gaussian direction at radius epsilon * u^(1/d): uniform in volume."""
        directions = [torch.randn(*shape, generator=generator) for generator in generators]
        radii = torch.cat([torch.rand(1, generator=generator) for generator in generators])
        return self.ascend(torch.stack(directions)) * _broadcast(epsilon * radii ** (1 / math.prod(shape)))

    def diameter(self, shape: Sequence[int]) -> float:
        """Root of the number of values."""
        return math.sqrt(math.prod(shape))


def _broadcast(per_image: PerImage) -> Tensor:
    return per_image[:, None, None, None]


def _or_one(sizes: PerImage) -> PerImage:
    return torch.where(sizes > 0, sizes, 1)


NORMS.register("l2", L2())
NORMS.register("linf", Linf())
