"""A labelled collection of images, read one at a time."""

from abc import ABC, abstractmethod
from typing import Literal

from torch import Tensor

from robustbench_bcos.data.preprocessing import AS_THEY_ARE, Preprocessing

Split = Literal["train", "test"]


class AbstractDataset(ABC):
    """Images with labels and class names; nothing is kept in memory that need not be.

    Attributes:
        name: how the dataset is asked for, ``folder:DIR`` included.
        labels: class of each image, in the dataset's own order.
        class_names: one name per class.
        preprocessing: what was done to make images as large as they are.
    """

    name: str
    labels: list[int]
    class_names: tuple[str, ...]
    preprocessing: Preprocessing = AS_THEY_ARE

    @abstractmethod
    def read(self, index: int) -> Tensor:
        """One image as float32 RGB in [0, 1], (3, height, width).

        Raises:
            RequestError: the image cannot be read; its place is named.
        """

    def __len__(self) -> int:
        return len(self.labels)
