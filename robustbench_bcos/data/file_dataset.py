"""Datasets that are image files in folders, one folder per class."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.data.dataset import AbstractNamedDataset
from robustbench_bcos.data.decoding import decode_rgb
from robustbench_bcos.data.image_list import choose_listed

if TYPE_CHECKING:
    import torch


class AbstractFileDataset(AbstractNamedDataset):
    """Files are decoded, resized and cropped when they are read; memory holds their names."""

    any_size = True

    _files: list[Path]

    def read(self, index: int) -> "torch.Tensor":
        """Decode one image."""
        file = self._files[index]
        return self.preprocessing.pixels(decode_rgb(file), f"image {file}")

    def _list(self, folder: Path, labels: Mapping[str, int], image_list: Path | None) -> None:
        """Find the files of each class, in the order of their paths: all, or those on the list.

        Args:
            folder: what holds the class folders.
            labels: by name of class folder.
            image_list: a file that names some of the images; other class folders may be empty then.

        Raises:
            RequestError: a class has no images, or the list cannot be followed.
        """
        from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

        found = make_dataset(str(folder), dict(labels), extensions=IMG_EXTENSIONS, allow_empty=True)
        if image_list is not None:
            positions = choose_listed(image_list, [Path(file).relative_to(folder).as_posix() for file, _ in found])
            found = [found[position] for position in positions]
        else:
            _refuse_empty_classes(folder, labels, {label for _, label in found})
        self._files = [Path(file) for file, _ in found]
        self.labels = [label for _, label in found]


def _refuse_empty_classes(folder: Path, labels: Mapping[str, int], found: set[int]) -> None:
    empty = [name for name, label in labels.items() if label not in found]
    if empty:
        others = f", and neither do {len(empty) - 1} others" if len(empty) > 1 else ""
        raise RequestError(
            f"class folder {folder / empty[0]} holds no images{others}: fill what is empty, take it out, or name the "
            "images to use with image_list"
        )
