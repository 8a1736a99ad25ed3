"""A dataset of one's own: scikit-learn's digits in less light, ``dim_digits`` or ``dim_digits:0.8``."""

import torch

from robustbench_bcos.data import DATASETS
from robustbench_bcos.data.dataset import AbstractNamedDataset, DatasetRequest
from robustbench_bcos.data.datasets.digits import Digits


@DATASETS.registered("dim_digits")
class DimDigits(AbstractNamedDataset):
    """The digits, with every pixel multiplied by a number."""

    argument = "LIGHT"
    argument_optional = True

    def __init__(self, digits: Digits, light: float) -> None:
        self.name = f"dim_digits:{light}"
        self.labels = digits.labels
        self.class_names = digits.class_names
        self._digits = digits
        self._light = light

    @classmethod
    def open(cls, request: DatasetRequest) -> "DimDigits":
        return cls(Digits(request.split), float(request.argument or "0.8"))

    def read(self, index: int) -> torch.Tensor:
        return self._digits.read(index) * self._light
