"""Randomness that belongs to the image.

A draw is a function of (seed, index of the image in its dataset, restart), so that batch size, order, sharding
and resuming change nothing. Drawn on the CPU, so that the device changes nothing either.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import torch


def generator(*key: int) -> torch.Generator:
    """A CPU generator that depends on nothing but the key."""
    # A hash of the key as text: shorter and longer keys, and numbers beyond 32 bits, never share a stream.
    digest = blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest) >> 1)


@dataclass(frozen=True, slots=True)
class ImageGenerator:
    """The source of noise for a batch: one independent generator for each image and restart."""

    seed: int
    indices: tuple[int, ...]
    """Position of each image of the batch in its dataset (not in the batch, not in the slice)."""
    path: tuple[int, ...] = ()
    """Which part of an attack draws, where an attack has parts that draw: their restarts have the same numbers."""

    @classmethod
    def of(cls, seed: int, indices: Sequence[int] | torch.Tensor) -> "ImageGenerator":
        """Build from any sequence of dataset indices."""
        return cls(seed, tuple(int(index) for index in indices))

    def __call__(self, restart: int) -> list[torch.Generator]:
        """One generator per image, always in the same state."""
        return [generator(self.seed, index, *self.path, restart) for index in self.indices]

    def some(self, positions: Sequence[int]) -> "ImageGenerator":
        """The same source for some images of the batch: they draw what they would have drawn among all."""
        return ImageGenerator(self.seed, tuple(self.indices[place] for place in positions), self.path)

    def part(self, number: int, positions: Sequence[int]) -> "ImageGenerator":
        """The source for one part of an attack, on some images of the batch. No two parts draw the same.

        Args:
            number: of the part.
            positions: of the images, in the batch.
        """
        chosen = self.some(positions)
        return ImageGenerator(self.seed, chosen.indices, (*self.path, number))
