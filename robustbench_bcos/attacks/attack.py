"""What an attack is: a search that proposes one candidate per image. Whether it fools is the judge's to say."""

import math
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from robustbench_bcos.attacks.norms import AbstractNorm
from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.core.types import Classifier, Counts, Epsilon, Flags, Images, Labels


class Trace(NamedTuple):
    """What happened on the way, per image."""

    degenerate_gradient: Flags
    """At some iterate that fooled nobody the gradient was 0 everywhere, or NaN or infinite somewhere: a blind step."""
    forward_passes: Counts
    backward_passes: Counts

    @classmethod
    def blank(cls, images: Images) -> "Trace":
        """The trace of an attack that has not begun."""
        counts = torch.zeros(len(images), dtype=torch.long, device=images.device)
        return cls(counts.bool(), counts, counts.clone())

    def include(self, other: "Trace", active: Tensor) -> None:
        """Add what happened to some of the images, in another attack."""
        self.degenerate_gradient[active] |= other.degenerate_gradient
        self.forward_passes[active] += other.forward_passes
        self.backward_passes[active] += other.backward_passes


class AttackResult(NamedTuple):
    """The outcome of an attack."""

    candidates: Images
    trace: Trace


def check_epsilon(epsilon: Epsilon) -> None:
    """Refuse a radius that no ball has.

    Raises:
        ValueError: it is negative, infinite or NaN.
    """
    for radius in epsilon.tolist() if isinstance(epsilon, Tensor) else [epsilon]:
        if not 0 <= radius < math.inf:
            raise ValueError(f"expected a finite epsilon of at least 0, got {radius}")


@runtime_checkable
class Attack(Protocol):
    """A search for an image in the ball that the classifier gets wrong.

    ``classifier`` is any differentiable callable from images in [0, 1] to logits; ``generator`` is the only source of
    randomness.
    """

    def __call__(
        self,
        classifier: Classifier,
        images: Images,
        labels: Labels,
        ball: AbstractNorm,
        epsilon: float,
        generator: PerImageRng | None = None,
    ) -> AttackResult:
        """Propose a candidate for each image."""
        ...
