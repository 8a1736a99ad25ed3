"""Randomness that belongs to the image.

A draw is a function of (seed, index of the image in its dataset, restart), so that batch size, order, sharding
and resuming change nothing. Drawn on the CPU, so that the device changes nothing either.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import blake2b

from robustbench_bcos.core.deferred import numpy as np
from robustbench_bcos.core.deferred import torch
from robustbench_bcos.core.types import Tensor


def generator(*key: int | str) -> "torch.Generator":
    """A CPU generator that depends on nothing but the key."""
    # A hash of the key as text, so that shorter and longer keys, and numbers beyond 32 bits, share no stream.
    digest = blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest) >> 1)


@contextmanager
def global_generators(*key: int | str, device: "torch.device") -> Iterator[None]:
    """Seed the global generators of torch, NumPy and Python by the key inside the ``with``; restore them after it.

    For code that draws from them. They belong to the whole process: no other thread may draw at the same time.

    Args:
        key: on which alone draws depend.
        device: of what is drawn on it.
    """
    seed = generator(*key).initial_seed()
    of_python, of_numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(of_python)
            np.random.set_state(of_numpy)


@dataclass(frozen=True, slots=True)
class PerImageRng:
    """The randomness of a batch: one independent stream for each image and restart."""

    seed: int
    indices: tuple[int, ...]
    """Position of each image of the batch in its dataset (neither in the batch nor in the evaluation subset)."""
    key: tuple[int | str, ...] = ()
    """Names of the sub-streams, outermost first (a check, a member of an ensemble); each has its own restarts."""
    copies: tuple[int, ...] = ()
    """Number of each among the copies of its image; none where every image is there once."""

    @classmethod
    def of(cls, seed: int, indices: Sequence[int] | Tensor) -> "PerImageRng":
        """Build from any sequence of dataset indices."""
        return cls(seed, tuple(int(index) for index in indices))

    def __call__(self, restart: int) -> "list[torch.Generator]":
        """One generator per image, always in the same state."""
        copies: list[tuple[int, ...]] = [(copy,) for copy in self.copies] or [()] * len(self.indices)
        return [
            generator(self.seed, index, *self.key, *copy, restart)
            for index, copy in zip(self.indices, copies, strict=True)
        ]

    def select(self, positions: Sequence[int]) -> "PerImageRng":
        """The streams of some images of the batch: they draw what they would have drawn among all."""
        copies = tuple(self.copies[position] for position in positions) if self.copies else ()
        return replace(self, indices=tuple(self.indices[position] for position in positions), copies=copies)

    def repeated(self, times: int) -> "PerImageRng":
        """All images so many times over, each time with streams of their own."""
        before = self.copies or (0,) * len(self.indices)
        copies = tuple(times * copy + again for again in range(times) for copy in before)
        return replace(self, indices=self.indices * times, copies=copies)

    def fold_in(self, name: int | str) -> "PerImageRng":
        """Streams of their own for a part of the work: no two names draw the same."""
        return replace(self, key=(*self.key, name))
