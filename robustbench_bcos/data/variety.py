"""Whether images differ: files that were read wrongly become all black, all white, or black and white."""

from collections.abc import Iterator

import torch

from robustbench_bcos.core.types import Images

FEW = 8
"""Different values of pixels that are too few to go without saying."""


MANY = 0.05
"""Share of copies from which on intervals, which take images for independent, are too narrow to go without saying."""


class Variety:
    """What has been seen of images, batch by batch."""

    def __init__(self) -> None:
        self._count = 0
        self._first: torch.Tensor | None = None
        self._same = self._single = True
        self._values: set[float] = set()
        self._seen: set[float] = set()
        self._weights: torch.Tensor | None = None

    def see(self, images: Images) -> None:
        """Look at further images."""
        if self._first is None:
            self._first = images[0].clone()
        self._count += len(images)
        self._same = self._same and bool((images == self._first).all())
        self._single = self._single and bool((images == images[..., :1, :1]).all())
        if self._weights is None or len(self._weights) != images[0].numel():
            drawn = torch.Generator().manual_seed(0)
            self._weights = torch.rand(images[0].numel(), generator=drawn, dtype=torch.double)
        # One number stands for an image: a digest of each would double the time of reading.
        self._seen.update(float(image.flatten().cpu().double() @ self._weights) for image in images)
        for image in images:
            # Nearly always the first image has enough.
            if len(self._values) > FEW:
                break
            self._values.update(image.unique().tolist())

    @property
    def monotonous(self) -> bool:
        """Whether all images are one, or each of them is a single colour: nobody can tell their classes apart."""
        return self._count > 1 and (self._same or self._single)

    def notes(self) -> Iterator[str]:
        """What is odd, a sentence each."""
        if self._count > 1 and self._same:
            yield f"Images: all {self._count} are the same picture. Look at one of the files."
        elif self.monotonous:
            yield f"Images: each of the {self._count} is of a single colour. Look at one of the files."
        elif (copies := self._count - len(self._seen)) >= MANY * self._count:
            yield (
                f"Images: {copies} of the {self._count} are copies of another one. Intervals and tests take them for "
                "independent: leave them out."
            )
        if len(self._values) <= FEW:
            values = ", ".join(f"{value:.3g}" for value in sorted(self._values))
            yield f"Images: their pixels have only the values {values}. Look at one of the files."
