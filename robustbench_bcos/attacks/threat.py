"""A threat model: a norm and an epsilon, made once from text and handed to everything below."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from robustbench_bcos.attacks import NORMS, norm_name
from robustbench_bcos.attacks.norm import AbstractNorm, broadcast, or_one
from robustbench_bcos.core.deferred import torch
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.quantities import Quantity
from robustbench_bcos.core.types import Epsilon, Images, PerImage, Tensor

PER_IMAGE = "of its own"
"""The text of an epsilon that is another number for each image."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Threat:
    """Which perturbations an adversary may make: those of ``norm`` at most ``epsilon`` that stay in the pixel box.

    Attributes:
        norm: its name. The norm itself is looked up when it is needed, so that reading a run needs no plug-in.
        epsilon: radius in units of the pixel range [0, 1], or one for each image.
        text: the radius as it was written.
    """

    norm: str
    epsilon: Epsilon
    text: str

    @classmethod
    def of(cls, norm: "Threat | str", epsilon: "Quantity | str | float | PerImage | None" = None) -> "Threat":
        """A threat from the name of a norm, as the field writes it (``l2``, ``L2``, ``Linf``), and a radius.

        Raises:
            RequestError: an unknown norm, a radius that is missing, negative, infinite or not a number, or one beside
                a threat, which has its own.
        """
        if isinstance(norm, Threat):
            if epsilon is not None:
                raise RequestError(f"threat {norm} has an epsilon already: leave out {epsilon}")
            return norm
        name = norm_name(norm)
        if epsilon is None:
            raise RequestError(
                f"norm {norm} comes without an epsilon: give one in units of the pixel range, 8/255, say"
            )
        if isinstance(epsilon, Tensor) and epsilon.dim() > 0:
            if not bool((epsilon.isfinite() & (epsilon >= 0)).all()):
                raise RequestError("eps must be finite and not negative for each image")
            return cls(name, epsilon, PER_IMAGE)
        quantity = Quantity.of(float(epsilon) if isinstance(epsilon, Tensor) else epsilon)
        return cls(name, quantity.value, quantity.text)

    @property
    def geometry(self) -> AbstractNorm:
        """The norm itself."""
        return NORMS[self.norm]

    @property
    def radius(self) -> float:
        """Epsilon where all images have the same."""
        if isinstance(self.epsilon, Tensor):
            raise ValueError("expected one epsilon for all images, got one for each")
        return self.epsilon

    def size(self, perturbation: Images) -> PerImage:
        """Norm of each perturbation."""
        return self.geometry.size(perturbation)

    def steepest_ascent(self, gradient: Images, iterates: Images | None = None) -> Images:
        """The direction of size 1 along which a linear function with this gradient grows most."""
        return self.geometry.steepest_ascent(gradient, iterates)

    def advance(self, iterates: Images, gradient: Images, step_size: Epsilon) -> Images:
        """The iterates after a step of steepest ascent of this size; it may leave the pixel box."""
        return self.geometry.advance(iterates, gradient, step_size)

    def project(self, images: Images, perturbation: Images) -> Images:
        """The perturbed images, moved into the ball around ``images`` and into the pixel box."""
        return self.geometry.project(images, perturbation, self.epsilon)

    def sample(self, shape: Sequence[int], generators: "Sequence[torch.Generator]") -> Images:
        """One perturbation per generator, uniform in the ball."""
        return self.geometry.sample(shape, self.radius, generators)

    def sample_sphere(self, shape: Sequence[int], generators: "Sequence[torch.Generator]") -> Images:
        """Draws from the ball, lengthened to its radius."""
        draws = self.sample(shape, generators)
        return draws * broadcast(self.radius / or_one(self.size(draws)))

    def select(self, positions: Tensor) -> "Threat":
        """The threat to some of the images."""
        if isinstance(self.epsilon, Tensor):
            return Threat(self.norm, self.epsilon[positions], self.text)
        return self

    def unbounded(self, shape: Sequence[int]) -> "Threat":
        """The threat that holds every image of this shape."""
        return Threat.of(self.norm, self.geometry.diameter(shape))

    def contains(self, other: "Threat") -> bool:
        """Whether every perturbation that the other allows is allowed here."""
        return self.norm == other.norm and other.radius <= self.radius

    def __eq__(self, other: object) -> bool:
        if self is other or not isinstance(other, Threat):
            return self is other
        return self.text != PER_IMAGE and (self.norm, self.text) == (other.norm, other.text)

    def __hash__(self) -> int:
        return hash((self.norm, self.text))

    def __str__(self) -> str:
        return f"{self.norm} {self.text}"
