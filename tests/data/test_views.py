"""Datasets that read another one's images say of them what that one says."""

from collections.abc import Callable
from typing import final

import pytest
import torch
from torch import Tensor

from robustbench_bcos.data.checked import Checked, image_digests
from robustbench_bcos.data.dataset import AbstractDataset
from robustbench_bcos.data.grey import WithChannels
from robustbench_bcos.data.preprocessing import Preprocessing
from robustbench_bcos.data.remembered import Remembered


@final
class Telling(AbstractDataset):
    """Everything that a dataset may say, unlike its default."""

    any_size = True
    has_masks = True
    adversarial = True
    preprocessing = Preprocessing(resize=7)
    name, labels, class_names, notes = "telling", [0, 1], ("a", "b"), ("2 files left out",)

    def read(self, index: int) -> Tensor:
        return torch.full((3, 2, 2), 0.5)

    def mask(self, index: int) -> Tensor:
        return torch.tensor([[index, 0], [0, -1]], dtype=torch.int16)


@pytest.mark.parametrize(
    "view",
    [Remembered, lambda one: WithChannels(one, 3), lambda one: Checked(one, image_digests(one, (0, 1)))],
    ids=["remembered", "with-channels", "checked"],
)
def test_a_view_says_what_the_dataset_says(view: Callable[[AbstractDataset], AbstractDataset]) -> None:
    dataset = Telling()
    seen = view(dataset)
    for what in ("name", "labels", "class_names", "preprocessing", "adversarial", "any_size", "has_masks", "channels"):
        assert getattr(seen, what) == getattr(dataset, what), what
    assert seen.notes == dataset.notes
    assert torch.equal(seen.read(1), dataset.read(1))
    assert torch.equal(seen.mask(1), dataset.mask(1))
