"""Image folders: ``DIR/test/CLASS/*`` or ``DIR/CLASS/*``, any format that Pillow reads."""

from pathlib import Path

import torch
from torch import Tensor
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import pil_to_tensor

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.data.dataset import AbstractDataset, Split


class Folder(AbstractDataset):
    """A folder of classes; images are decoded when they are asked for."""

    def __init__(self, root: Path, split: Split) -> None:
        self.name = f"folder:{root}"
        try:
            files = ImageFolder(str(_split_folder(root, split)))
        except (OSError, RuntimeError) as error:
            raise RequestError(
                f"--dataset {self.name} holds no images that can be listed ({error}): "
                "it needs one folder of images per class, in DIR/test or in DIR itself"
            ) from None
        self.labels = list(files.targets)
        self.class_names = tuple(files.classes)
        self._paths = [path for path, _ in files.samples]
        self._decode = files.loader

    def read(self, index: int) -> Tensor:
        """Decode one image."""
        path = self._paths[index]
        try:
            image = self._decode(path)
        except Exception as error:  # Pillow raises nearly anything over a damaged file.
            raise RequestError(f"image {path} cannot be decoded ({error}): replace it or take it out") from None
        pixels: Tensor = pil_to_tensor(image)
        return pixels.to(torch.float32) / 255


def _split_folder(root: Path, split: Split) -> Path:
    if not root.is_dir():
        raise RequestError(f"--dataset folder:{root} is not a folder: give the folder that holds the class folders")
    if (root / split).is_dir():
        return root / split
    if split == "train":
        raise RequestError(f"--dataset folder:{root} has no folder train: training needs DIR/train/CLASS/*")
    return root
