"""Which of the images that an attack did not break a second search is spent on.

A stronger attack breaks first what the weaker one nearly broke. So the images nearest to success are examined, for as
long as some of the last ones are broken: they count as broken, and the number is repaired. A sample of all others is
examined too, because a model that hides its gradients has no nearest images: its rate stands for the images that were
not examined.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Literal

from robustbench_bcos.bench.rows import ResultRow

Part = Literal["screened", "nearest", "sample", "called"]
"""Why an image is examined, and how: by a short search that all are given; by the whole one, as one of those nearest to
success or as one of all others; or because an attack without gradients broke it, which leaves the question whether the
gradients are wrong or the attack was too weak."""

FEWEST = 16
"""Images of the sample, and of the nearest, the last of which must not have been broken."""

AT_LENGTH = 64
"""Images that a search begun briefly is begun with: where no more are robust, that is all of them."""

AT_ONCE = 4
"""The nearest images that are examined first, in tails."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The images that can be examined, those nearest to success first."""

    robust: Sequence[int]
    tail: int
    """Of the nearest images, so many are looked back at: where one of them was broken, the search goes on."""
    most: int
    """Images that may be examined at all, those called not counted."""
    begin: int
    """Images that the search begins with."""

    @classmethod
    def of(cls, robust: Sequence[int], images: int, most: int) -> "Selection":
        """For a number of images evaluated: the tail is a hundredth of them, or ``FEWEST``."""
        most = min(most, len(robust))
        return cls(robust=robust, tail=max(FEWEST, -(-images // 100)), most=most, begin=most)

    @property
    def briefly_begun(self) -> "Selection":
        """The same, begun with some of the nearest and a sample; it goes on as far as images are broken."""
        return replace(self, begin=min(self.most, max(AT_LENGTH, self.tail + FEWEST)))

    @property
    def first(self) -> dict[int, Part]:
        """The images to begin with: all, where all may be examined, or the nearest and a sample of the others.

        Where little may be examined, half of it is the nearest.
        """
        if self.begin == len(self.robust):
            return self._as("nearest", self.robust)
        nearest = self.robust[: min(AT_ONCE * self.tail, max(-(-self.begin // 2), self.begin - FEWEST))]
        others = self.robust[len(nearest) :]
        count = min(FEWEST, self.begin - len(nearest))
        spread = [others[(2 * place + 1) * len(others) // (2 * count)] for place in range(count)]
        return self._as("nearest", nearest) | self._as("sample", spread)

    def following(self, examined: Collection[int]) -> dict[int, Part]:
        """The nearest images that have not been examined, as many as a tail and as may still be examined."""
        left = [image for image in self.robust if image not in examined]
        return self._as("nearest", left[: max(0, min(self.tail, self.most - len(examined)))])

    def last(self, nearest: Collection[int]) -> list[int]:
        """The tail of the nearest images that have been examined, half of them where they are few.

        The very nearest are expected to break, and say nothing of those that come after.
        """
        examined = [image for image in self.robust if image in nearest]
        return examined[-min(self.tail, -(-len(examined) // 2)) :] if examined else []

    @staticmethod
    def _as(part: Part, images: Sequence[int]) -> dict[int, Part]:
        return dict.fromkeys(images, part)


def nearest_first(rows: Iterable[ResultRow]) -> list[int]:
    """Images in the order of what a search measured of them, the nearest to success first."""
    return [row.image for row in sorted(rows, key=lambda row: (-inf if row.value is None else row.value, -row.image))][
        ::-1
    ]
