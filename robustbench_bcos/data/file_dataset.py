"""Datasets that are image files in folders, one folder per class."""

from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.data.class_folders import find_images, notes_of_left_out
from robustbench_bcos.data.dataset import AbstractNamedDataset
from robustbench_bcos.data.decoding import decode_rgb, notes_of
from robustbench_bcos.data.image_list import choose_listed

if TYPE_CHECKING:
    import torch


class AbstractFileDataset(AbstractNamedDataset):
    """Files are decoded, resized and cropped when they are read; memory holds their names.

    Attributes:
        as_torchvision: whether files are decoded as torchvision's loader does, for numbers that were published so.
    """

    any_size = True
    as_torchvision: ClassVar[bool] = False

    _files: list[Path]
    _found: tuple[str, ...] = ()
    """What was chosen and left out when files were listed."""
    _conversions: dict[int, tuple[str, ...]]
    """By index, what was done to files that were read."""

    def read(self, index: int) -> "torch.Tensor":
        """Decode one image."""
        file = self._files[index]
        picture, conversions = decode_rgb(file, as_torchvision=self.as_torchvision)
        if conversions:
            self._conversions[index] = conversions
        return self.preprocessing.pixels(picture, f"image {file}")

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override] # it grows as images are read
        """What was chosen and left out, and how the files that were read became 8-bit RGB."""
        counts = Counter(kind for kinds in list(self._conversions.values()) for kind in kinds)
        return (*self._found, *notes_of(counts))

    def _list(
        self, folder: Path, labels: Mapping[str, int], image_list: Path | None, asked: Collection[str] = ()
    ) -> None:
        """Find the files of each class, in the order of their paths: all, or those on the list.

        Args:
            folder: what holds the class folders.
            labels: by name of class folder.
            image_list: a file that names some of the images; other class folders may be empty then.
            asked: classes that are called as splits are.

        Raises:
            RequestError: a class has no images or holds folders of splits, or the list cannot be followed.
        """
        files = {name: find_images(folder / name, asked) for name in labels}
        found = [(file, labels[name]) for name in sorted(labels) for file in files[name].images]
        if image_list is not None:
            positions = choose_listed(image_list, [file.relative_to(folder).as_posix() for file, _ in found])
            found = [found[position] for position in positions]
        else:
            _refuse_empty_classes(folder, labels, {label for _, label in found})
            self._found += tuple(notes_of_left_out(folder, files.values()))
        self._files = [file for file, _ in found]
        self._conversions = {}
        self.labels = [label for _, label in found]


def _refuse_empty_classes(folder: Path, labels: Mapping[str, int], found: set[int]) -> None:
    empty = [name for name, label in labels.items() if label not in found]
    if empty:
        others = f", and neither do {len(empty) - 1} others" if len(empty) > 1 else ""
        raise RequestError(
            f"class folder {folder / empty[0]} holds no images{others}: fill what is empty, take it out, or name the "
            "images to use with image_list"
        )
