"""Pascal VOC 2012 for segmentation (Everingham et al., 2015): images, and the class of each of their pixels."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.datasets import VOCSegmentation
from torchvision.models.segmentation import FCN_ResNet50_Weights

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.data.dataset import Split
from robustbench_bcos.data.decoding import decode_rgb, opened
from robustbench_bcos.data.preprocessing import AS_THEY_ARE, Preprocessing

BORDER = 255
"""In a mask: between objects, or too hard to say. It is no class."""

IMAGE_SETS: dict[Split, str] = {"train": "train", "test": "val"}
"""The masks of VOC's own test images are secret."""


class Segmented(NamedTuple):
    """An image and what is where on it."""

    image: Tensor
    """float32 RGB in [0, 1], (3, height, width)."""
    mask: Tensor
    """Class of each pixel or 255, int64, (height, width)."""


class Voc:
    """One split, in torchvision's layout: ``DIR/VOCdevkit/VOC2012/JPEGImages`` and its neighbours."""

    def __init__(self, root: Path, split: Split, *, preprocessing: Preprocessing = AS_THEY_ARE) -> None:
        self.name = "voc"
        self.preprocessing = preprocessing
        # torchvision's first name is that of a special token.
        self.class_names = ("background", *FCN_ResNet50_Weights.DEFAULT.meta["categories"][1:])
        try:
            listed = VOCSegmentation(str(root), image_set=IMAGE_SETS[split])
        except (OSError, RuntimeError, UnicodeDecodeError) as error:
            raise RequestError(
                f"--data-dir {root} holds no Pascal VOC 2012 ({error}): it needs VOCdevkit/VOC2012 with JPEGImages, "
                "SegmentationClass and ImageSets/Segmentation"
            ) from None
        base = Path(listed.root) / "VOCdevkit" / "VOC2012"
        self._images = _inside(base / "JPEGImages", listed.images)
        self._masks = _inside(base / "SegmentationClass", listed.masks)

    def __len__(self) -> int:
        return len(self._images)

    def read(self, index: int) -> Segmented:
        """One image and its mask, resized and cropped alike.

        Raises:
            RequestError: one of them is missing or damaged, or they do not fit together.
        """
        picture, file = decode_rgb(self._images[index]), self._masks[index]
        with opened(file) as mask:
            if mask.mode not in ("P", "L"):
                raise RequestError(f"mask {file} is of mode {mask.mode}: it must hold one class number per pixel")
            if mask.size != picture.size:
                raise RequestError(f"mask {file} is not as large as {self._images[index]}: replace it")
            classes = self.preprocessing.mask(mask, f"mask {file}")
        strange = (classes >= len(self.class_names)) & (classes != BORDER)
        if torch.any(strange):
            raise RequestError(
                f"mask {file} holds {int(classes[strange][0])}, which is neither one of {len(self.class_names)} "
                f"classes nor {BORDER} for a border: replace it"
            )
        return Segmented(self.preprocessing.pixels(picture, f"image {self._images[index]}"), classes)


def _inside(folder: Path, files: list[str]) -> list[Path]:
    """Files as a list names them, which must not lead out of their folder."""
    paths = [Path(file) for file in files]
    for path in paths:
        if path.parent != folder:
            raise RequestError(f"a list of --data-dir names {path}, which lies outside {folder}: correct it")
    return paths
