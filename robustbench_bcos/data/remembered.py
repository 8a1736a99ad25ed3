"""Images that are read again and again, by attacks, checks and explanations, are decoded once."""

from typing import TYPE_CHECKING, final

from robustbench_bcos.data.dataset import AbstractDataset, AbstractView

if TYPE_CHECKING:
    import torch

ROOM = 32 << 20
"""Bytes of decoded images that are kept, a small part of a run's memory; further images are read again when they are
needed."""


@final
class Remembered(AbstractView):
    """A dataset whose first images stay in memory once they have been read; threads may share it.

    Args:
        dataset: where images come from.
        room: bytes that may be kept.
    """

    def __init__(self, dataset: AbstractDataset, room: int = ROOM) -> None:
        super().__init__(dataset)
        self._room = room
        self._images: dict[int, torch.Tensor] = {}

    def read(self, index: int) -> "torch.Tensor":
        """One image; the caller must not change it."""
        image = self._images.get(index)
        if image is None:
            image = self._dataset.read(index)
            # What is kept is never dropped for another image: a run reads its subset in the same order every time, and
            # the last image that was kept would always be dropped just before it is needed.
            self._room -= image.nbytes
            if self._room >= 0:
                self._images[index] = image
        return image
