"""Images and labels as they are handed over: converted before a model sees them, or refused with the remedy."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from robustbench_bcos.core.arrays import read_images, read_labels, read_pairs
from robustbench_bcos.core.errors import RequestError

RGB = torch.rand(4, 3, 5, 6, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([2, 0, 1, 2])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (RGB, RGB),
        (RGB.clone().requires_grad_(), RGB),
        (RGB.numpy(), RGB),
        (RGB.double().numpy(), RGB.double()),
        (RGB.half(), RGB.half().float()),
        (list(RGB), RGB),
        ([image.numpy() for image in RGB], RGB),
        ((255 * RGB).byte(), (255 * RGB).byte() / 255),
        ((255 * RGB).byte().numpy(), (255 * RGB).byte() / 255),
    ],
    ids=["tensor", "with gradient", "array", "float64", "float16", "tensors", "arrays", "bytes", "byte array"],
)
def test_images_may_be_tensors_arrays_or_bytes(given: Any, expected: torch.Tensor) -> None:
    read = read_images(given)
    torch.testing.assert_close(read, expected, rtol=0, atol=0)
    assert not read.requires_grad


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (RGB.permute(0, 2, 3, 1), "got (4, 5, 6, 3): put channels first with images.permute(0, 3, 1, 2)"),
        (RGB.permute(0, 2, 3, 1).numpy(), "put channels first with images.transpose(0, 3, 1, 2)"),
        (RGB[:, :1], "if the model takes grey images, or repeat the grey channel with images.repeat(1, 3, 1, 1)"),
        (
            RGB[:, :1].numpy(),
            "give channels=1 if the model takes grey images, or repeat the grey channel with images.repeat(3, ",
        ),
        (RGB[:, 0], "repeat grey images over three channels with images[:, None].repeat(1, 3, 1, 1)"),
        (RGB[0], "of a single image, make a batch with images[None]"),
        (torch.cat([RGB, RGB[:, :1]], dim=1), "leave the alpha channel out with images[:, :3]"),
        (RGB[0, 0], "give RGB images of shape (image, 3, height, width)"),
        (RGB[:0], "images must not be empty, got shape (0, 3, 5, 6)"),
        (255 * RGB, "images must have values in [0, 1], got "),
        (255 * RGB, ": divide them by 255"),
        (16 * RGB, ": divide them by the largest value that a pixel can have"),
        (65535 * RGB, ": divide them by the largest value that a pixel can have"),
        (1.05 * RGB / RGB.max(), "clip them to [0, 1]"),
        (2 * RGB - 1, "undo the normalisation, which belongs inside the model"),
        ((255 * RGB).int(), "floating-point numbers in [0, 1] or uint8, got int32: divide them by 255"),
        (RGB / 0, "images must be finite"),
        (DataLoader(TensorDataset(RGB)), "images must be in memory, got DataLoader: give a tensor or an array"),
        (TensorDataset(RGB), "got TensorDataset"),
        ("photo.png", "images must be in memory, got str"),
        (np.array(["a"]), "images must be numbers, got <U1"),
        ([RGB[0], RGB[0, :2]], "images must be numbers, got values that do not fit together"),
    ],
)
def test_other_images_are_refused_with_the_remedy(given: Any, said: str) -> None:
    with pytest.raises(RequestError) as caught:
        read_images(given)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("given", [RGB[:, :1], RGB[:, 0], (255 * RGB[:, 0]).byte().numpy()])
def test_grey_images_have_one_channel_where_it_is_asked_for(given: Any) -> None:
    assert read_images(given, channels=1).shape == (4, 1, 5, 6)
    with pytest.raises(RequestError, match=r"1, height, width.* with channels 1, got .*: leave channels out for RGB"):
        read_images(RGB, channels=1)


@pytest.mark.parametrize(
    "given",
    [
        LABELS,
        LABELS.int(),
        LABELS.numpy(),
        LABELS.tolist(),
        tuple(LABELS),
        LABELS.float(),
        LABELS[:, None],
        torch.nn.functional.one_hot(LABELS),
        torch.nn.functional.one_hot(LABELS).float().numpy(),
    ],
    ids=["tensor", "int32", "array", "list", "tuple", "float", "column", "one-hot", "one-hot array"],
)
def test_labels_may_be_numbers_or_one_hot(given: Any) -> None:
    assert torch.equal(read_labels(given, 4), LABELS)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (LABELS[:3], "one class for each of the 4 images, got shape (3,): give 4 whole numbers"),
        (LABELS[:, None, None], "got shape (4, 1, 1)"),
        (LABELS + 0.5, "labels must be whole numbers, got float32"),
        (LABELS - 1, "labels must be classes from 0, got -1"),
        (LABELS > 1, "labels must be whole numbers, got bool"),
        (torch.full((4, 3), 1 / 3), "labels of shape (4, 3) must be one-hot"),
        (["cat", "dog", "cat", "dog"], "labels must be numbers, got values that do not fit together"),
        (iter([1, 2]), "labels must be in memory, got list_iterator: give one class for each of the 4 images"),
        (None, "labels must be in memory, got NoneType"),
    ],
)
def test_other_labels_are_refused_with_the_remedy(given: Any, said: str) -> None:
    with pytest.raises(RequestError) as caught:
        read_labels(given, 4)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


DATASET = TensorDataset(RGB, LABELS)


class Endless:
    """A dataset that has a length, but no end of its own."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[np.ndarray[Any, Any], int]:
        return RGB[index % 4].numpy(), int(LABELS[index % 4])


@pytest.mark.parametrize(
    "given",
    [DATASET, DataLoader(DATASET, batch_size=3), Endless(), list(DATASET), iter(DataLoader(DATASET, batch_size=2))],
    ids=["dataset", "loader", "endless", "list", "iterator"],
)
def test_a_dataset_or_a_loader_gives_images_and_labels(given: Any) -> None:
    images, labels = read_pairs(given)
    assert torch.equal(images, RGB)
    assert torch.equal(labels, LABELS)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (RGB, "labels are missing: give one class for each image"),
        (3, "labels are missing"),
        (TensorDataset(RGB), "must give (image, label) or batches of them, got tuple"),
        ([{"image": RGB[0], "label": 1}], "got dict: put a generator of such pairs in its place"),
        ([("a.png", 1)], "images must be in memory, got str: give a dataset the transform"),
        ([(RGB[0], 1), (RGB[0, :, :2], 1)], "must fit together"),
        ([(2 * RGB[0] - 1, 1)], "undo the normalisation"),
        ([], "must fit together"),
    ],
)
def test_other_datasets_are_refused_with_the_remedy(given: Any, said: str) -> None:
    with pytest.raises(RequestError) as caught:
        read_pairs(given)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("width", [1, 3, 4, 6])
@pytest.mark.parametrize("channels", [2, 5])
def test_other_numbers_of_channels_are_no_heights_however_narrow_images_are(channels: int, width: int) -> None:
    images = torch.rand(2, channels, 8, width)
    assert torch.equal(read_images(images, rgb=False), images)
    with pytest.raises(RequestError, match=r"put channels first"):
        read_images(torch.rand(2, 8, 9, width), rgb=False)
