"""Handwritten digits as scikit-learn ships them: 1,797 scans of 8x8 pixels with 17 grey levels (Alpaydin, 1998)."""

from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, final

from robustbench_bcos.core.packages import find_package
from robustbench_bcos.data import DATASETS
from robustbench_bcos.data.dataset import BACKGROUND, VOID, AbstractNamedDataset, DatasetRequest, Split

if TYPE_CHECKING:
    import torch

INKED = 0.5
"""Share of a pixel that must be ink for it to belong to the digit; with less ink it is void, without any background."""

TEST_EVERY = 5
"""Within each class, images 0, 5, 10, ... are for testing: stratified, and the same for everyone without a seed."""


@final
@DATASETS.registered("digits")
class Digits(AbstractNamedDataset):
    """One part of the fixed split, as RGB by repetition.

    Its radii are those that the digits of the zoo were trained for, and hold unless others are asked for.
    """

    radii = MappingProxyType({"l2": "0.5", "linf": "0.1"})
    radii_by_default = True
    image_shape = (3, 8, 8)
    test_images = 364
    has_masks = True
    how_to_get = "digits come with scikit-learn and need not be fetched: run without --dataset"

    def __init__(self, split: Split) -> None:
        import numpy as np
        import torch

        scans, labels = _scans()
        in_test = np.zeros(len(labels), dtype=bool)
        for digit in range(10):
            in_test[np.flatnonzero(labels == digit)[::TEST_EVERY]] = True
        chosen = in_test if split == "test" else ~in_test
        self.name = "digits"
        self.labels = labels[chosen].tolist()
        self.class_names = self.known_classes()
        self._images = torch.from_numpy((scans[chosen] / 16).astype(np.float32))

    @classmethod
    def known_classes(cls) -> tuple[str, ...]:
        """The ten digits."""
        return tuple(map(str, range(10)))

    @classmethod
    def open(cls, request: DatasetRequest) -> "Digits":
        """They are part of scikit-learn."""
        return cls(request.split)

    def read(self, index: int) -> "torch.Tensor":
        """One scan, its grey value in all three channels."""
        return self._images[index].expand(3, -1, -1).clone()

    def mask(self, index: int) -> "torch.Tensor":
        """The ink is the digit."""
        return ink_mask(self._images[index], self.labels[index])


def ink_mask(ink: "torch.Tensor", digit: int) -> "torch.Tensor":
    """The class of each pixel of a scan, by how much of it is ink: from 0 to 1, (height, width)."""
    import torch

    mask = torch.full(ink.shape, VOID, dtype=torch.int16)
    mask[ink >= INKED] = digit
    mask[ink == 0] = BACKGROUND
    return mask


def _scans() -> tuple[Any, Any]:
    """Grey levels of all scans, and their labels.

    From scikit-learn's file: to import scikit-learn takes longer than all else that a first run does after torch.
    """
    import numpy as np

    installed = find_package("sklearn")
    file = Path(installed.origin if installed and installed.origin else "").parent / "datasets/data/digits.csv.gz"
    if file.is_file():
        table = np.loadtxt(file, delimiter=",")
        return table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(int)
    # Another version may keep it elsewhere.
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return bunch.images, bunch.target
