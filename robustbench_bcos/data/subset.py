"""The evaluation subset: the fixed images of a dataset that a run uses."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.types import Flags, Images, Labels
from robustbench_bcos.data.dataset import VOID, AbstractDataset
from robustbench_bcos.data.opening import check_limit
from robustbench_bcos.data.variety import Variety


class Batch(NamedTuple):
    """Some images of an evaluation subset."""

    images: Images
    labels: Labels
    indices: tuple[int, ...]
    """Positions in the dataset."""

    def on(self, device: str) -> "Batch":
        """A copy on a device. A GPU copies from pinned memory, and the program does not wait for that."""
        images, labels, indices = self
        if torch.device(device).type == "cuda":
            images, labels = images.pin_memory(), labels.pin_memory()
        return Batch(images.to(device, non_blocking=True), labels.to(device, non_blocking=True), indices)

    def select(self, positions: Sequence[int]) -> "Batch":
        """The images at these positions of the batch."""
        chosen = list(positions)
        return Batch(self.images[chosen], self.labels[chosen], tuple(self.indices[position] for position in chosen))


class ShownObject(NamedTuple):
    """Where an image shows its class, as its mask says."""

    region: Flags
    """Of shape (1, height, width), in the mask's size."""
    valid: Flags
    """Of shape (height, width): which pixels count."""


@dataclass(frozen=True)
class EvalSubset:
    """Images of a dataset in a fixed order: the first of each class, then the second of each, and so on.

    Any prefix is as balanced as the dataset allows, so ``--limit 100`` is part of ``--limit 200``, and neither
    depends on a seed. Images are read when a batch needs them; memory does not grow with their number.
    """

    dataset: AbstractDataset
    indices: tuple[int, ...]

    @classmethod
    def of(cls, dataset: AbstractDataset, limit: int | None = None) -> "EvalSubset":
        """The first ``limit`` images in balanced order, or all.

        Raises:
            RequestError: the dataset is empty, a label is no class, or the limit is not positive or exceeds it.
        """
        if len(dataset) == 0:
            raise RequestError(f"{dataset.name} holds no images: choose another dataset")
        check_limit(limit, len(dataset), dataset.name)
        classes = len(dataset.class_names)
        strangers = set(dataset.labels).difference(range(classes))
        if strangers:
            raise RequestError(
                f"{dataset.name} has a label {min(strangers)} and {classes} classes: labels are numbers from 0 to "
                f"{classes - 1}"
            )
        seen = [0] * classes
        ranked = []
        for index, label in enumerate(dataset.labels):
            ranked.append((seen[label], label, index))
            seen[label] += 1
        return cls(dataset, tuple(index for _, _, index in sorted(ranked))[:limit])

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per class of the dataset."""
        return self.dataset.class_names

    def batch(self, start: int, stop: int) -> Batch:
        """Images ``start`` to ``stop`` (excluded) of the subset.

        Raises:
            RequestError: an image cannot be read or differs in size from the subset's first; the message names it.
        """
        indices = self.indices[start:stop]
        images = [self.dataset.read(index) for index in indices]
        for index, image in zip(indices, images, strict=True):
            if image.shape != self.image_shape:
                raise RequestError(
                    f"image {index} of {self.dataset.name} has shape {tuple(image.shape)} and the first has "
                    f"{self.image_shape}: all images of a dataset need one size, which resize and crop give them"
                )
        labels = torch.tensor([self.dataset.labels[index] for index in indices])
        return Batch(torch.stack(images), labels, indices)

    def objects(self) -> list[ShownObject | None]:
        """Where each image shows its class; ``None`` where it has no mask, or the mask does not show the class."""
        if not self.dataset.has_masks:
            return [None] * len(self)
        pairs = ((self.dataset.mask(index), self.dataset.labels[index]) for index in self.indices)
        return [
            ShownObject((mask == label)[None], mask != VOID) if (mask == label).any() else None for mask, label in pairs
        ]

    def batches(self, size: int) -> Iterator[Batch]:
        """All images in batches; the last may be smaller."""
        return (self.batch(start, start + size) for start in range(0, len(self), size))

    @cached_property
    def image_shape(self) -> tuple[int, ...]:
        """(channels, height, width)."""
        return tuple(self.dataset.read(self.indices[0]).shape)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of class names, indices, labels and float32 pixels: equal digests, equal images.

        Reading everything once also finds a broken image before hours are spent.

        Raises:
            RequestError: an image cannot be read, or is not float32 RGB in [0, 1].
        """
        digest = hashlib.sha256(json.dumps([self.class_names, self.image_shape]).encode())
        for batch in self.batches(256):
            self._check_pixels(batch.images)
            self._variety.see(batch.images)
            digest.update(json.dumps([batch.indices, batch.labels.tolist()]).encode())
            # The array's own memory and no copy: 256 images of ImageNet hold 150 MB.
            digest.update(batch.images.numpy().astype("<f4", copy=False).reshape(-1).data)
        return digest.hexdigest()

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of a number must know of these images, a sentence each."""
        _ = self.digest  # All have been read then.
        return (*self.dataset.notes, *self._variety.notes())

    @cached_property
    def _variety(self) -> Variety:
        return Variety()

    def _check_pixels(self, images: torch.Tensor) -> None:
        low, high = images.aminmax()
        # Written so that NaN is refused, too.
        channels = self.dataset.channels
        if images.dtype != torch.float32 or images.shape[1] != channels or not (low >= 0 and high <= 1):
            raise RequestError(
                f"{self.dataset.name} gives images of shape {tuple(images.shape[1:])} and {images.dtype} from {low} to "
                f"{high}: they must be {'RGB' if channels == 3 else 'grey'} of shape ({channels}, height, width) and "
                "torch.float32 from 0 to 1"
            )
