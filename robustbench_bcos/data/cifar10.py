"""CIFAR-10 (Krizhevsky, 2009) from its original python batches."""

from pathlib import Path

import torch
from torch import Tensor
from torchvision import datasets

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.data.dataset import AbstractDataset, Split


class Cifar10(AbstractDataset):
    """One split. The batches are pickles: torchvision opens them only after their digests have been checked."""

    def __init__(self, root: Path, split: Split, *, download: bool) -> None:
        self.name = "cifar10"
        try:
            batches = datasets.CIFAR10(str(root), train=split == "train", download=download)
        except (OSError, RuntimeError) as error:
            raise RequestError(
                f"--dataset cifar10 is not in --data-dir {root} ({error}): "
                "point --data-dir at the folder that holds cifar-10-batches-py, or add --download"
            ) from None
        self.labels = list(batches.targets)
        self.class_names = tuple(batches.classes)
        self._pixels = torch.from_numpy(batches.data).permute(0, 3, 1, 2)

    def read(self, index: int) -> Tensor:
        """One image."""
        return self._pixels[index].to(torch.float32) / 255
