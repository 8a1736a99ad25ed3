"""Which of the images that withstood an attack a second search is spent on.

A stronger attack takes first what the weaker one nearly took. So the images nearest to falling are examined, for as
long as some of the last ones fall: what falls there counts as fallen, and the number is repaired. Beside them stands a
sample of all others, because a model that hides its gradients has no nearest images: what falls there stands for
images that nobody examined.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

Part = Literal["nearest", "sample", "called"]
"""Why an image is examined: as one of those nearest to falling; as one of all others; or because an attack without
gradients fooled it, so that it must be asked whether gradients are wrong or the attack was too weak."""

FEWEST = 16
"""Images of the sample, and among which the last of the nearest must not have fallen."""

AT_ONCE = 4
"""The nearest images that are examined first, in tails."""


@dataclass(frozen=True)
class Selection:
    """The images that can be examined, those nearest to falling first."""

    withstood: Sequence[int]
    tail: int
    """Of the nearest images, so many are looked back at: where one of them fell, the search goes on."""
    most: int
    """Images that may be examined at all, those called not counted."""

    @classmethod
    def of(cls, withstood: Sequence[int], images: int, most: int) -> "Selection":
        """For a number of images evaluated: the tail is a hundredth of them, or ``FEWEST``."""
        return cls(withstood, max(FEWEST, -(-images // 100)), min(most, len(withstood)))

    @property
    def first(self) -> dict[int, Part]:
        """The images to begin with: all, where all may be examined, or the nearest and a sample of the others.

        Where little may be examined, half of it is the nearest.
        """
        if self.most == len(self.withstood):
            return self._as("nearest", self.withstood)
        nearest = self.withstood[: min(AT_ONCE * self.tail, max(-(-self.most // 2), self.most - FEWEST))]
        others = self.withstood[len(nearest) :]
        count = min(FEWEST, self.most - len(nearest))
        spread = [others[(2 * place + 1) * len(others) // (2 * count)] for place in range(count)]
        return self._as("nearest", nearest) | self._as("sample", spread)

    def following(self, examined: Collection[int]) -> dict[int, Part]:
        """The nearest images that have not been examined, as many as a tail and as may still be examined."""
        left = [image for image in self.withstood if image not in examined]
        return self._as("nearest", left[: max(0, min(self.tail, self.most - len(examined)))])

    def last(self, nearest: Collection[int]) -> list[int]:
        """The tail of the nearest images that have been examined, half of them where they are few.

        The very nearest are expected to fall, and say nothing of those that come after.
        """
        examined = [image for image in self.withstood if image in nearest]
        return examined[-min(self.tail, -(-len(examined) // 2)) :] if examined else []

    @staticmethod
    def _as(part: Part, images: Sequence[int]) -> dict[int, Part]:
        return dict.fromkeys(images, part)
