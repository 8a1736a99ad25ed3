"""What a certificate of a smoothed network is asked, and what it says.

A smoothed network is another function than the network: what that does on average over Gaussian noise. Nothing here
bounds what an attack on the network itself may find.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import torch
from torch import nn

from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.core.types import Images

BLOCK = 100
"""Draws that a generator gives at a time, however many of them the network is shown together."""


class Certified(NamedTuple):
    """What is certified of one image: each part of the statement within its own radius."""

    radii: tuple[float | None, ...]
    """In l2, from the largest; ``None`` where not even the image itself is certified. Rounded down."""
    prediction: int | None = None
    """Of the smoothed classifier, ``NO_CLASS`` where it abstains; ``None`` where it is not about classes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Smoothed:
    """A classifier and the noise that its images get: in RGB, before any encoding, and not clipped to [0, 1]."""

    classifier: nn.Module
    """From images to logits, in evaluation mode."""
    sigma: float
    """Standard deviation of the noise, in units of the pixel range."""
    draws: int
    """Draws that probabilities are bounded from."""
    alpha: float
    """Probability that what is said of an image is wrong, at most."""
    method: str = "auto"
    """Of explanation, for what is about maps."""
    batch_size: int = BLOCK
    """Noisy images that the network is shown at a time."""

    def noisy(self, image: Images, rng: PerImageRng, draws: int) -> Iterator[tuple[Images, PerImageRng]]:
        """So many noisy images, in parts; each part comes with the random streams of what is done with it next.

        Args:
            image: a batch of one.
            rng: of this image.
            draws: how many.
        """
        (generator,) = rng.fold_in("noise")(0)
        for start in range(0, draws, BLOCK):
            noise = torch.randn(min(BLOCK, draws - start), *image.shape[1:], generator=generator)
            for part in (image + self.sigma * noise.to(image)).split(self.batch_size):
                yield part, replace(rng, indices=rng.indices * len(part))


class AbstractCertificate(ABC):
    """A statement about smoothed networks; a new one is a module of ``smoothed`` that registers it."""

    name: ClassVar[str]

    norm: ClassVar[str] = "l2"
    """Of radii: Gaussian noise is as likely in every direction (Cohen et al., 2019)."""

    certifies: ClassVar[str]
    """Of what it is a lower bound, as a phrase."""

    @abstractmethod
    def certify(self, smoothed: Smoothed, image: Images, label: int, rng: PerImageRng) -> Certified:
        """What is certified of an image, with probability 1 - alpha.

        Args:
            smoothed: the network and its noise.
            image: a batch of one, in [0, 1].
            label: its class.
            rng: of this image alone; the only source of randomness.
        """

    def largest(self, draws: int, alpha: float, pixels: int) -> float:
        """The largest radius that so many draws can certify of any image, in units of sigma; infinite if not known.

        Args:
            draws: that probabilities are bounded from.
            alpha: probability that what is said of an image is wrong, at most.
            pixels: of an image.
        """
        return math.inf

    @abstractmethod
    def passes(self, draws: int) -> int:
        """Forward and backward passes of an image."""
