"""ImageNet (Russakovsky et al., 2015, https://arxiv.org/abs/1409.0575) in class folders, as torchvision has it.

A label is the position of a class among the sorted WNIDs of all 1,000, whatever the folder holds, as in all models.
"""

import hashlib
import re
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import final

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.data import DATASETS
from robustbench_bcos.data.class_folders import find_split
from robustbench_bcos.data.dataset import DatasetRequest, Split
from robustbench_bcos.data.file_dataset import AbstractFileDataset
from robustbench_bcos.data.preprocessing import AS_THEY_ARE, Preprocessing

WNID = re.compile(r"n\d{8}")

CLASSES_SHA256 = "385e0240499426c022b773be1ae4da780f057b89c9694c7f47199f62746b6edd"
"""Of the 1,000 WNIDs, sorted, a line feed between them: 1,000 other synsets are not ImageNet's classes."""

MAPPING = "LOC_synset_mapping.txt"
"""A line for each of the 1,000 classes, its WNID first, as ImageNet's challenge on Kaggle gives it."""

FOLDERS: dict[Split, tuple[str, ...]] = {"test": ("val", "valid", "validation", "test"), "train": ("train",)}
"""Where a split may lie. What ImageNet calls validation is what everyone tests on: its test labels are secret."""


@cache
def imagenet_class_names() -> tuple[str, ...]:
    """Of the 1,000 classes, in the order in which models count them, each a word of its synset."""
    from torchvision.models import ResNet18_Weights

    return tuple(ResNet18_Weights.DEFAULT.meta["categories"])


@final
@DATASETS.registered("imagenet")
class Imagenet(AbstractFileDataset):
    """``DIR/val/WNID/*.JPEG``, or the class folders in ``DIR/test`` or in ``DIR`` itself."""

    as_torchvision = True
    radii = MappingProxyType({"linf": "4/255"})
    usual_size = (224, 224)
    data_dir_holds = "val"
    how_to_get = (
        "imagenet cannot be fetched, because its terms must be accepted by a person: get ILSVRC2012_img_val.tar from "
        "https://image-net.org/download, lay it out as DIR/val/WNID/*.JPEG, one folder a class, and run with --dataset "
        "imagenet --data-dir DIR"
    )

    def __init__(
        self,
        root: Path,
        split: Split,
        *,
        preprocessing: Preprocessing = AS_THEY_ARE,
        image_list: Path | None = None,
    ) -> None:
        self.name = "imagenet"
        self.preprocessing = preprocessing
        self.class_names = imagenet_class_names()
        folder = _split_folder(root, split)
        self._list(folder, _labels(folder, root), image_list)
        self._found = (f"Images: those in {folder.name}.", *self._found)

    @classmethod
    def known_classes(cls) -> tuple[str, ...]:
        """The 1,000."""
        return imagenet_class_names()

    @classmethod
    def locate(cls, request: DatasetRequest) -> None:
        """Whether there are class folders, and of which classes."""
        _labels(_split_folder(request.data_dir, request.split), request.data_dir)

    @classmethod
    def open(cls, request: DatasetRequest) -> "Imagenet":
        """From ``--data-dir``, all images or those on the list."""
        preprocessing, image_list = request.preprocessing, request.image_list
        return cls(request.data_dir, request.split, preprocessing=preprocessing, image_list=image_list)


def _split_folder(root: Path, split: Split) -> Path:
    if not root.is_dir():
        raise RequestError(f"data_dir {root} is not a folder: give the one that holds ImageNet's folder val")
    found = find_split(root, split, order=FOLDERS[split])
    if found is None and split == "train":
        raise RequestError(f"data_dir {root} has no folder train: training needs DIR/train/WNID/*.JPEG")
    return found or next((root / name for name in FOLDERS[split] if (root / name).is_dir()), root)


def _labels(folder: Path, root: Path) -> dict[str, int]:
    """The label of each class folder: named by its WNID, or all 1,000 by their numbers, as ImageNetV2 has them."""
    try:
        folders = {entry.name for entry in folder.iterdir() if entry.is_dir()}
    except OSError as error:
        raise RequestError(f"{folder} cannot be listed ({error.strerror}): give a folder that may be read") from None
    there = {name for name in folders if WNID.fullmatch(name)}
    if not there:
        # ImageNetV2 (Recht et al., 2019, https://arxiv.org/abs/1902.10811) names its folders by the labels.
        numbers = {name: int(name) for name in folders if name.isascii() and name.isdigit()}
        if sorted(numbers.values()) == list(range(1000)):
            return numbers
        raise RequestError(
            f"{folder} holds no folders that are named by WNIDs, such as n01440764, or by all numbers from 0 to 999: "
            "sort the images into them, or use dataset folder:DIR for other classes, with classes in the order of the "
            "model's outputs"
        )
    everything = there if _are_imagenet(there) else _from_mapping(folder, root, len(there))
    strangers = there - everything
    if strangers:
        raise RequestError(f"{folder / min(strangers)} is not one of ImageNet's 1,000 classes: take it out")
    return {wnid: label for label, wnid in enumerate(sorted(everything)) if wnid in there}


def _from_mapping(folder: Path, root: Path, found: int) -> set[str]:
    """The WNIDs of all 1,000 classes, from the user's own copy of their list."""
    files = [place / MAPPING for place in (root, folder) if (place / MAPPING).is_file()]
    if not files:
        raise RequestError(
            f"{folder} holds {found} class folders that are not the 1,000 of ImageNet, and their labels cannot be told "
            f"without the others: put {MAPPING} into data_dir, or use dataset folder:DIR for these classes alone"
        )
    wnids = set(WNID.findall(files[0].read_text(encoding="utf-8", errors="replace")))
    if not _are_imagenet(wnids):
        raise RequestError(f"{files[0]} does not name ImageNet's 1,000 classes by their WNIDs: replace it")
    return wnids


def _are_imagenet(wnids: set[str]) -> bool:
    """Whether these are the 1,000 that models count."""
    return hashlib.sha256("\n".join(sorted(wnids)).encode()).hexdigest() == CLASSES_SHA256
