"""The fixed images of a dataset that a run uses."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.registry import unknown
from robustbench_bcos.core.types import Images, Labels
from robustbench_bcos.data.dataset import AbstractDataset, Split
from robustbench_bcos.data.preprocessing import AS_THEY_ARE, Preprocessing

DATASETS = ("digits", "cifar10", "imagenet", "folder:DIR")


class Batch(NamedTuple):
    """Consecutive images of a slice."""

    images: Images
    labels: Labels
    indices: tuple[int, ...]
    """Positions in the dataset."""

    def on(self, device: str) -> "Batch":
        """The same on a device. A GPU fetches it from pinned memory, and the program does not wait for that."""
        images, labels, indices = self
        if torch.device(device).type == "cuda":
            images, labels = images.pin_memory(), labels.pin_memory()
        return Batch(images.to(device, non_blocking=True), labels.to(device, non_blocking=True), indices)

    def some(self, places: Sequence[int]) -> "Batch":
        """The images in these places."""
        chosen = list(places)
        return Batch(self.images[chosen], self.labels[chosen], tuple(self.indices[place] for place in chosen))


@dataclass(frozen=True)
class EvalSubset:
    """Images of a dataset in a fixed order: the first of each class, then the second of each, and so on.

    Any prefix is as balanced as the dataset allows, so ``--limit 100`` is part of ``--limit 200``, and neither
    depends on a seed. Images are read when they are asked for; memory does not grow with their number.
    """

    dataset: AbstractDataset
    indices: tuple[int, ...]

    @classmethod
    def of(cls, dataset: AbstractDataset, limit: int | None = None) -> "EvalSubset":
        """The first ``limit`` images in balanced order, or all.

        Raises:
            RequestError: the dataset is empty, or the limit is not positive or exceeds it.
        """
        if len(dataset) == 0:
            raise RequestError(f"{dataset.name} holds no images: choose another dataset")
        if limit is not None and not 1 <= limit <= len(dataset):
            raise RequestError(f"--limit {limit} must be between 1 and the {len(dataset)} images of {dataset.name}")
        seen = [0] * len(dataset.class_names)
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
        """Images ``start`` to ``stop`` (excluded) of the slice.

        Raises:
            RequestError: an image cannot be read or differs in size from the slice's first; it is named.
        """
        indices = self.indices[start:stop]
        images = [self.dataset.read(index) for index in indices]
        for index, image in zip(indices, images, strict=True):
            if image.shape != self.image_shape:
                raise RequestError(
                    f"image {index} of {self.dataset.name} has shape {tuple(image.shape)} and the first has "
                    f"{self.image_shape}: all images of a dataset need one size, which --resize and --crop give them"
                )
        labels = torch.tensor([self.dataset.labels[index] for index in indices])
        return Batch(torch.stack(images), labels, indices)

    def batches(self, size: int) -> Iterator[Batch]:
        """All images in batches; the last may be smaller."""
        return (self.batch(start, start + size) for start in range(0, len(self), size))

    @cached_property
    def image_shape(self) -> tuple[int, ...]:
        """(3, height, width)."""
        return tuple(self.dataset.read(self.indices[0]).shape)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of class names, indices, labels and float32 pixels: equal digests, equal images.

        Reading everything once also finds a broken image before hours are spent.
        """
        digest = hashlib.sha256(json.dumps([self.class_names, self.image_shape]).encode())
        for batch in self.batches(256):
            digest.update(json.dumps([batch.indices, batch.labels.tolist()]).encode())
            # The array's own memory and no copy: 256 images of ImageNet hold 150 MB.
            digest.update(batch.images.numpy().astype("<f4", copy=False).reshape(-1).data)
        return digest.hexdigest()


def open_dataset(
    name: str,
    split: Split,
    *,
    data_dir: Path | None = None,
    download: bool = False,
    preprocessing: Preprocessing = AS_THEY_ARE,
    image_list: Path | None = None,
) -> AbstractDataset:
    """The dataset of that name: ``digits``, ``folder:DIR``, or ``cifar10`` and ``imagenet``, which need ``data_dir``.

    Each dataset's module is imported when it is asked for: scikit-learn is slow to import, and only digits need it.

    Raises:
        RequestError: no such dataset, its files are not there, or its images have one size and are to be given another.
    """
    if any_size(name):
        return _open_files(name, split, data_dir, preprocessing, image_list)
    if name not in DATASETS:
        raise unknown("dataset", name, DATASETS)
    if preprocessing != AS_THEY_ARE or image_list is not None:
        raise RequestError(
            f"--resize, --crop and --image-list are for image files, of imagenet and folder:DIR, and {name} is fixed: "
            "leave them out"
        )
    if name == "digits":
        from robustbench_bcos.data.digits import Digits

        return Digits(split)
    from robustbench_bcos.data.cifar10 import Cifar10

    return Cifar10(_needed(name, data_dir, "cifar-10-batches-py"), split, download=download)


def any_size(dataset: str) -> bool:
    """Whether a dataset's images come in all sizes, so that they are resized and cropped to that of the models."""
    kind, _, argument = dataset.partition(":")
    return dataset in ("imagenet", "voc") or (kind == "folder" and argument != "")


def _open_files(
    name: str, split: Split, data_dir: Path | None, preprocessing: Preprocessing, image_list: Path | None
) -> AbstractDataset:
    if name == "voc":
        raise RequestError(
            "--dataset voc has several objects in a picture and so no label for it, it is for segmentation: choose "
            "digits, cifar10, imagenet or folder:DIR"
        )
    if name == "imagenet":
        from robustbench_bcos.data.imagenet import Imagenet

        place = _needed(name, data_dir, "val")
        return Imagenet(place, split, preprocessing=preprocessing, image_list=image_list)
    from robustbench_bcos.data.folder import Folder

    place = Path(name.partition(":")[2]).expanduser()
    return Folder(place, split, preprocessing=preprocessing, image_list=image_list)


def _needed(dataset: str, data_dir: Path | None, holding: str) -> Path:
    if data_dir is None:
        raise RequestError(f"--dataset {dataset} needs --data-dir DIR, the folder that holds {holding}")
    return data_dir
