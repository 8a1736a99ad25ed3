"""The geometry of a threat: how large a perturbation is, which are allowed, and which direction is steepest.

Epsilons are in units of the pixel range [0, 1].
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import inf
from typing import ClassVar

from robustbench_bcos.core.deferred import torch
from robustbench_bcos.core.types import Epsilon, Images, PerImage, Tensor


class AbstractNorm(ABC):
    """A norm of perturbations. It has no state; an epsilon makes a :class:`~.threat.Threat` of it."""

    name: ClassVar[str]
    in_levels: ClassVar[bool] = False
    """Whether papers write its epsilons in levels of 255, so that a plain 8 probably means 8/255."""
    leaderboard: ClassVar[str] = ""
    """RobustBench's name for its threats; empty where it has none of this norm."""
    largest_change: ClassVar[float] = inf
    """Largest change of one value by a perturbation of size 1; infinite where nobody has said, which proves nothing."""
    sparse: ClassVar[bool] = False
    """Whether steepest ascent moves few pixels, so that an attack has to find out how many to move at once."""

    @abstractmethod
    def size(self, perturbation: Images) -> PerImage:
        """Norm of each perturbation."""

    @abstractmethod
    def steepest_ascent(self, gradient: Images, iterates: Images | None = None) -> Images:
        """The perturbation of size 1 along which a linear function with this gradient grows most.

        It is 0 where the gradient is 0, and depends on the gradient's direction alone: no guard is added to a norm, so
        that a gradient of 1e-30 moves an image as far as one of 1.

        Args:
            gradient: of each image.
            iterates: where the step begins; a norm that moves few pixels leaves out those that the pixel box blocks.
        """

    def direction(self, draws: Images) -> Images:
        """Perturbations of size 1 in random directions, given standard normal draws; every pixel takes part in them."""
        return self.steepest_ascent(draws)

    def advance(self, iterates: Images, gradient: Images, step_size: Epsilon) -> Images:
        """The iterates after a step of steepest ascent of this size; it may leave the pixel box."""
        size = broadcast(step_size) if isinstance(step_size, Tensor) else step_size
        return iterates + size * self.steepest_ascent(gradient, iterates)

    @abstractmethod
    def project_onto_ball(self, perturbation: Images, epsilon: Epsilon) -> Images:
        """The nearest perturbation of size at most epsilon, in the 2-norm; each image may have its own epsilon."""

    def project(self, images: Images, perturbation: Images, epsilon: Epsilon) -> Images:
        """The perturbed images, moved into the ball and the pixel box [0, 1].

        By default first into the ball and then into the box: clipping moves pixels towards the image, so the result
        stays in the ball. For linf this is the nearest allowed image; for l2 it is an allowed one, as in the field's
        tools.
        """
        return (images + self.project_onto_ball(perturbation, epsilon)).clamp(0, 1)

    @abstractmethod
    def sample(self, shape: Sequence[int], epsilon: float, generators: "Sequence[torch.Generator]") -> Images:
        """One float32 perturbation per generator, uniform in the ball, on the CPU.

        Args:
            shape: of one image, (channel, height, width).
            epsilon: radius of the ball.
            generators: one per image.
        """

    @abstractmethod
    def diameter(self, shape: Sequence[int]) -> float:
        """Distance between opposite corners of the pixel box: no larger epsilon allows anything more."""

    def longest(self, shape: Sequence[int]) -> float:
        """Largest Euclidean norm of a perturbation of size 1; infinite if unknown: then nothing is certified."""
        return inf

    def __repr__(self) -> str:
        return self.name


def unblocked(gradient: Images, iterates: Images) -> Images:
    """The gradient without the entries along which the pixel box lets nothing move."""
    return torch.where(torch.where(gradient > 0, iterates < 1, iterates > 0), gradient, 0)


def broadcast(per_image: PerImage) -> Tensor:
    """A number per image, ready to be multiplied with images."""
    return per_image[:, None, None, None]


def or_one(sizes: Tensor) -> Tensor:
    """Sizes to divide by: 1 where the size is 0, so that 0 stays 0."""
    return torch.where(sizes > 0, sizes, 1)
