"""Pascal VOC's segmentation (Everingham et al., 2010) in torchvision's layout: images with a class for each pixel."""

from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from PIL import Image

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.framing import by
from robustbench_bcos.data import DATASETS
from robustbench_bcos.data.dataset import BACKGROUND, VOID, DatasetRequest, Split
from robustbench_bcos.data.decoding import opened
from robustbench_bcos.data.file_dataset import AbstractFileDataset
from robustbench_bcos.data.image_list import choose_listed
from robustbench_bcos.data.preprocessing import AS_THEY_ARE, Preprocessing

if TYPE_CHECKING:
    import torch

IMAGES, MASKS, LISTS = "JPEGImages", "SegmentationClass", "ImageSets/Segmentation"

LIST: dict[Split, str] = {"test": "val.txt", "train": "train.txt"}
"""Everyone tests on what VOC calls validation: its test masks are secret."""

VOID_INDEX = 255
"""In files: the border of objects, and what nobody labelled."""

SHAPE_TOLERANCE = 0.02
"""Part by which the proportions of a mask and its image may differ, as whole numbers of pixels make them."""


@cache
def voc_class_names() -> tuple[str, ...]:
    """The 20 classes in the order of masks, which count the background as 0."""
    from torchvision.models.segmentation import FCN_ResNet50_Weights

    return tuple(FCN_ResNet50_Weights.DEFAULT.meta["categories"][1:])


@final
@DATASETS.registered("voc")
class Voc(AbstractFileDataset):
    """``DIR/VOCdevkit/VOC2012``, or any folder of that form: ``JPEGImages``, ``SegmentationClass`` and lists of names.

    An image may show several classes; its label is the one with most pixels.
    """

    as_torchvision = True
    has_masks = True
    argument = "YEAR"
    argument_optional = True
    data_dir_holds = f"VOCdevkit, or {IMAGES} and {MASKS}"
    how_to_get = (
        "voc cannot be fetched from here: get it with torchvision.datasets.VOCSegmentation(DIR, download=True) and run "
        "with --dataset voc --data-dir DIR"
    )

    def __init__(
        self,
        root: Path,
        split: Split,
        *,
        year: str = "",
        preprocessing: Preprocessing = AS_THEY_ARE,
        image_list: Path | None = None,
    ) -> None:
        self.name = f"voc:{year}" if year else "voc"
        self.preprocessing = preprocessing
        self.class_names = voc_class_names()
        folder = _folder(root, year)
        names, where = _names(folder, split)
        if image_list is not None:
            listed = choose_listed(image_list, [f"{IMAGES}/{name}.jpg" for name in names])
            names = [names[position] for position in listed]
        self._found = (f"Images: those {where}.",)
        self._files, self._masks, self.labels = [], [], []
        self._conversions = {}
        empty = resized = 0
        for name in names:
            file, mask = folder / IMAGES / f"{name}.jpg", folder / MASKS / f"{name}.png"
            indices, was_resized = _read_mask(mask, file)
            counts = Counter({label: count for label, count in _counts(indices).items() if label >= 0})
            if not counts:
                empty += 1
                continue
            resized += was_resized
            self._files.append(file)
            self._masks.append(mask)
            self.labels.append(counts.most_common(1)[0][0])
        if empty:
            self._found += (f"Left out: {empty} whose masks have no object, only background and void.",)
        if resized:
            self._found += (f"Masks resized to their images, each pixel to the nearest: {resized}.",)
        if not self._files:
            raise RequestError(f"none of the {len(names)} masks in {folder / MASKS} has an object: give others")

    @classmethod
    def known_classes(cls) -> tuple[str, ...]:
        """The 20."""
        return voc_class_names()

    @classmethod
    def locate(cls, request: DatasetRequest) -> None:
        """Whether the folders are there, and files for all names."""
        folder = _folder(request.data_dir, request.argument)
        names, _ = _names(folder, request.split)
        for name in names if request.image_list is None else ():
            for file in (folder / IMAGES / f"{name}.jpg", folder / MASKS / f"{name}.png"):
                _check_there(file)

    @classmethod
    def open(cls, request: DatasetRequest) -> "Voc":
        """From ``--data-dir``, all images with masks or those on the list."""
        return cls(
            request.data_dir,
            request.split,
            year=request.argument,
            preprocessing=request.preprocessing,
            image_list=request.image_list,
        )

    def mask(self, index: int) -> "torch.Tensor":
        """Decode the mask of an image, and frame it as the image is."""
        import torch

        file = self._masks[index]
        indices, _ = _read_mask(file, self._files[index])
        classes = self.preprocessing.classes(indices, f"mask {file}").to(torch.int16)
        return torch.where(classes == VOID_INDEX, VOID, classes - 1)


def _folder(root: Path, year: str) -> Path:
    """What holds images and masks: the folder itself, or that of the latest year, or of the one that is asked for."""
    if not root.is_dir():
        raise RequestError(f"data_dir {root} is not a folder: give the one that holds VOCdevkit")
    if (root / IMAGES).is_dir() and not year:
        return root
    kits = [root / "VOCdevkit", root / "TrainVal/VOCdevkit", root]
    wanted = f"VOC{year}" if year else "VOC[0-9][0-9][0-9][0-9]"
    found = sorted(folder for kit in kits for folder in kit.glob(wanted) if (folder / IMAGES).is_dir())
    if not found:
        what = f"VOCdevkit/VOC{year or '2012'}/{IMAGES}"
        raise RequestError(f"data_dir {root} holds no {what}: give the folder that torchvision downloaded VOC to")
    return found[-1]


def _names(folder: Path, split: Split) -> tuple[list[str], str]:
    """Names of the images of a split that have masks, and where they are from."""
    file = folder / LISTS / LIST[split]
    if file.is_file():
        names = [line.split()[0] for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        where = f"that {LISTS}/{file.name} names"
    elif split == "train":
        raise RequestError(f"{folder} has no {LISTS}/{LIST[split]}: training needs a list of its images")
    else:
        names = sorted(mask.stem for mask in (folder / MASKS).glob("*.png"))
        where = f"with a mask in {MASKS}, because there is no {LISTS}/{LIST[split]}"
    if not names:
        raise RequestError(f"{file if file.is_file() else folder / MASKS} names no images: give a folder with some")
    odd = next((name for name in names if Path(name).name != name), None)
    if odd is not None:
        raise RequestError(f"{file} names {odd!r}, which is no name of a file in {IMAGES}: correct it")
    return names, where


def _check_there(file: Path) -> None:
    if not file.is_file():
        kind = "mask" if file.parent.name == MASKS else "image"
        raise RequestError(
            f"{kind} {file} is missing: put it there, take {file.stem} off the list, or name the images to use with "
            "image_list"
        )


def _read_mask(file: Path, of: Path) -> tuple[Image.Image, bool]:
    """The index of each pixel, 0 for the background, in the size of the image; and whether it had another.

    Raises:
        RequestError: a file is missing or damaged, has other proportions than its image, or unknown classes.
    """
    _check_there(of)
    _check_there(file)
    with opened(of) as image:
        size = image.size
    with opened(file) as mask:
        indices = _indices(mask, file)
    if indices.size == size:
        return indices, False
    scale, other = size[0] / indices.width, size[1] / indices.height
    if abs(scale / other - 1) > SHAPE_TOLERANCE:
        raise RequestError(
            f"mask {file} has {by((indices.height, indices.width))} pixels and its image {by((size[1], size[0]))}, of "
            "other proportions: cut both to the same part"
        )
    return indices.resize(size, Image.Resampling.NEAREST), True


def _indices(mask: Image.Image, file: Path) -> Image.Image:
    """What each pixel is, by its index, or by its colour where it has VOC's."""
    import numpy as np

    if mask.mode not in ("L", "P", "RGB"):
        raise RequestError(f"mask {file} is of mode {mask.mode}: save it as PNG with a palette or 8 bits of grey")
    colours = _colours()
    if mask.mode == "L" or (mask.mode == "P" and _is_grey(mask)):
        found = np.asarray(mask)
    else:
        pixels = np.asarray(mask.convert("RGB")).reshape(-1, 3)
        different, places = np.unique(pixels, axis=0, return_inverse=True)
        strangers = [colour for colour in map(tuple, different.tolist()) if colour not in colours]
        if strangers:
            raise RequestError(
                f"mask {file} has the colour {strangers[0]}, which is none of VOC's: save it with VOC's palette, or as "
                "8 bits of grey with the index of each class"
            )
        table = np.array([colours[tuple(colour)] for colour in different.tolist()], dtype=np.uint8)
        found = table[places.reshape(mask.height, mask.width)]
    strange = sorted(set(np.unique(found).tolist()) - set(colours.values()))
    if strange:
        raise RequestError(
            f"mask {file} has a class {strange[0]}, and VOC's are 0 to {len(voc_class_names())} and {VOID_INDEX} for "
            "void: save it with these"
        )
    return Image.fromarray(np.ascontiguousarray(found, dtype=np.uint8))


@cache
def _colours() -> Mapping[tuple[int, int, int], int]:
    """VOC's palette, in which three bits of the index are the high bits of red, green and blue, and so on downwards."""

    def level(index: int, channel: int) -> int:
        return sum(((index >> (3 * place + channel)) & 1) << (7 - place) for place in range(3))

    return {
        (level(index, 0), level(index, 1), level(index, 2)): index
        for index in (*range(len(voc_class_names()) + 1), VOID_INDEX)
    }


def _is_grey(mask: Image.Image) -> bool:
    """Whether each colour of a palette is the grey of its own index, so that it says no more than the index does."""
    palette = mask.getpalette() or []
    used: list[Any] = [index for _, index in mask.getcolors() or ()]
    return all(palette[3 * index : 3 * index + 3] == [index] * 3 for index in used)


def _counts(indices: Image.Image) -> dict[int, int]:
    """Pixels of each class, by its label; of background and void by theirs."""
    found: dict[Any, int] = {index: count for count, index in indices.getcolors() or ()}
    return {
        VOID if index == VOID_INDEX else index - 1 if index else BACKGROUND: count for index, count in found.items()
    }
