"""Images that another process has seen are compared with what it saw."""

import pytest
import torch

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.data.checked import Checked, image_digests
from robustbench_bcos.data.memory import InMemory


def dataset() -> InMemory:
    images = torch.rand(3, 3, 2, 5, generator=torch.Generator().manual_seed(0))
    return InMemory(images, torch.tensor([0, 1, 0]), classes=2)


def test_what_was_seen_is_read() -> None:
    checked = Checked(dataset(), image_digests(dataset(), [0, 1, 2]))
    assert all(torch.equal(checked.read(index), dataset().read(index)) for index in range(3))
    assert checked.labels == dataset().labels
    assert checked.class_names == dataset().class_names


@pytest.mark.parametrize("change", ["pixel", "label", "name", "unknown"])
def test_another_image_or_class_is_refused(change: str) -> None:
    digests, other = image_digests(dataset(), [0, 1]), dataset()
    index = 2 if change == "unknown" else 1
    if change == "pixel":
        other = InMemory(torch.rand(3, 3, 2, 5), torch.tensor([0, 1, 0]), classes=2)
    elif change == "label":
        other.labels = [0, 0, 0]
    elif change == "name":
        other.class_names = ("this", "that")
    with pytest.raises(RequestError, match=f"image {index} of .* is not the one that the run began with"):
        Checked(other, digests).read(index)
