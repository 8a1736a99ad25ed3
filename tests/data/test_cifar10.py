"""CIFAR-10 in its original format, at a thousandth of its size: pickles are opened only if their digest is known."""

import hashlib
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.data.dataset import AbstractDataset, Split
from robustbench_bcos.data.opening import open_dataset
from robustbench_bcos.data.subset import EvalSubset

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
IMAGES = {
    "data_batch_1": 4,
    "data_batch_2": 3,
    "data_batch_3": 5,
    "data_batch_4": 2,
    "data_batch_5": 6,
    "test_batch": 13,
}
FOLDER = "cifar-10-batches-py"


class Program:
    """What a hostile pickle holds: a command that is run when it is opened."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch '{self.marker}'",)


def fake_batch(seed: int, images: int) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (images, 3 * 32 * 32), dtype=np.uint8)
    return {"data": pixels, "labels": random.integers(0, 10, images).tolist(), "filenames": images * ["x.png"]}


@pytest.fixture
def batches() -> dict[str, dict[str, Any]]:
    return {name: fake_batch(seed, images) for seed, (name, images) in enumerate(IMAGES.items())}


@pytest.fixture
def root(tmp_path: Path, batches: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose files have the digests that torchvision expects."""
    digests = {}
    (tmp_path / FOLDER).mkdir()
    for name, content in {**batches, "batches.meta": {"label_names": NAMES}}.items():
        data = pickle.dumps(content)
        (tmp_path / FOLDER / name).write_bytes(data)
        digests[name] = hashlib.md5(data).hexdigest()
    monkeypatch.setattr(CIFAR10, "train_list", [[name, digests[name]] for name in IMAGES if name != "test_batch"])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", digests["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": digests["batches.meta"]})
    return tmp_path


def open_cifar(root: Path, split: Split = "test") -> AbstractDataset:
    return open_dataset("cifar10", split, data_dir=root)


@pytest.mark.parametrize("split", ["train", "test"])
def test_images_labels_and_names_are_those_of_the_batches(
    root: Path, batches: dict[str, dict[str, Any]], split: Split
) -> None:
    images = open_cifar(root, split)
    chosen = [batch for name, batch in batches.items() if (name == "test_batch") == (split == "test")]
    pixels = np.concatenate([batch["data"] for batch in chosen])
    assert images.name == "cifar10"
    assert images.class_names == tuple(NAMES)
    assert images.labels == [label for batch in chosen for label in batch["labels"]]
    assert len(images) == len(pixels)
    for index, row in enumerate(pixels):
        image = images.read(index)
        assert image.dtype == torch.float32
        # A row holds 1,024 red values line by line, then green, then blue.
        np.testing.assert_array_equal(image.numpy(), row.reshape(3, 32, 32).astype(np.float32) / 255)


def test_an_image_that_is_changed_is_read_unchanged_the_next_time(root: Path) -> None:
    images = open_cifar(root)
    before = EvalSubset.of(images).digest
    images.read(3).zero_()
    assert EvalSubset.of(images).digest == before


def test_a_folder_must_be_named(root: Path) -> None:
    with pytest.raises(RequestError, match=r"^dataset cifar10 needs data_dir"):
        open_dataset("cifar10", "test")


@pytest.mark.parametrize(
    "missing", [FOLDER, f"{FOLDER}/test_batch", f"{FOLDER}/data_batch_4", f"{FOLDER}/batches.meta"]
)
def test_a_folder_that_lacks_something_is_refused(root: Path, missing: str) -> None:
    (root / missing).rename(root / "elsewhere")
    with pytest.raises(RequestError) as caught:
        open_cifar(root)
    assert str(caught.value).startswith(f"dataset cifar10 is not in data_dir {root} (")
    assert str(caught.value).endswith("or set download")
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=f"^dataset cifar10 is not in data_dir {tmp_path}/nowhere "):
        open_cifar(tmp_path / "nowhere")


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", [*IMAGES, "batches.meta"])
def test_a_pickle_of_another_digest_is_refused_without_being_opened(root: Path, name: str, split: Split) -> None:
    marker = root / "it ran"
    file = root / FOLDER / name
    file.write_bytes(pickle.dumps(Program(marker)))
    pickle.loads(file.read_bytes())
    assert marker.exists(), "the pickle is harmless, and the test shows nothing"
    marker.unlink()
    with pytest.raises(RequestError, match=r"^dataset cifar10 is not in"):
        open_cifar(root, split)
    assert not marker.exists()
