"""Images are decoded once, as far as there is room."""

import torch

from robustbench_bcos.data.memory import InMemory
from robustbench_bcos.data.remembered import Remembered


class Counted(InMemory):
    def __init__(self) -> None:
        images = torch.rand(4, 3, 2, 5, generator=torch.Generator().manual_seed(0))
        super().__init__(images, torch.arange(4) % 2, classes=2)
        self.reads: list[int] = []

    def read(self, index: int) -> torch.Tensor:
        self.reads.append(index)
        return super().read(index)


def test_an_image_is_read_once_where_there_is_room() -> None:
    dataset = Counted()
    # Three images of 3 x 2 x 5 float32 fit.
    remembered = Remembered(dataset, room=3 * 120)
    for _ in range(3):
        for index in range(4):
            assert torch.equal(remembered.read(index), InMemory.read(dataset, index))
    assert dataset.reads == [0, 1, 2, 3, 3, 3]
    assert remembered.labels == dataset.labels
    assert len(remembered) == 4
