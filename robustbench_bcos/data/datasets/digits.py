"""Handwritten digits as scikit-learn ships them: 1,797 scans of 8x8 pixels with 17 grey levels (Alpaydin, 1998)."""

from typing import TYPE_CHECKING, final

from robustbench_bcos.data import DATASETS
from robustbench_bcos.data.dataset import AbstractNamedDataset, DatasetRequest, Split

if TYPE_CHECKING:
    import torch

TEST_EVERY = 5
"""Within each class, images 0, 5, 10, ... are for testing: stratified, and the same for everyone without a seed."""


@final
@DATASETS.registered("digits")
class Digits(AbstractNamedDataset):
    """One part of the fixed split, as RGB by repetition."""

    how_to_get = "digits come with scikit-learn and need not be fetched: run without --dataset"

    def __init__(self, split: Split) -> None:
        import numpy as np
        import torch
        from sklearn.datasets import load_digits

        bunch = load_digits()
        in_test = np.zeros(len(bunch.target), dtype=bool)
        for digit in range(10):
            in_test[np.flatnonzero(bunch.target == digit)[::TEST_EVERY]] = True
        chosen = in_test if split == "test" else ~in_test
        self.name = "digits"
        self.labels = bunch.target[chosen].tolist()
        self.class_names = tuple(str(digit) for digit in range(10))
        self._images = torch.from_numpy((bunch.images[chosen] / 16).astype(np.float32))

    @classmethod
    def open(cls, request: DatasetRequest) -> "Digits":
        """They are part of scikit-learn."""
        return cls(request.split)

    def read(self, index: int) -> "torch.Tensor":
        """One scan, its grey value in all three channels."""
        return self._images[index].expand(3, -1, -1).clone()
