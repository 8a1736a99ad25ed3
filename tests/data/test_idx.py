"""IDX files as MNIST and its relatives are published, and what is said of broken ones."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import MNIST

from robustbench_bcos.data.class_order import ClassOrder
from robustbench_bcos.data.datasets.idx import Idx
from robustbench_bcos.data.opening import open_dataset
from robustbench_bcos.data.subset import EvalSubset
from tests.refusals import refused

LEVELS = np.random.default_rng(0).integers(0, 256, (6, 5, 4), dtype=np.uint8)
LABELS = np.array([2, 0, 1, 1, 0, 2], dtype=np.uint8)


def idx(array: np.ndarray, kind: int = 8) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, kind, array.ndim, *array.shape) + array.tobytes()


def write(folder: Path, split: str = "t10k", *, zipped: bool = False, levels: np.ndarray = LEVELS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in (("images-idx3-ubyte", levels), ("labels-idx1-ubyte", LABELS)):
        content, file = idx(array), folder / f"{split}-{name}"
        if zipped:
            file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(content))
        else:
            file.write_bytes(content)
    return folder


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("place", ["", "raw", "MNIST/raw"])
def test_images_are_grey_and_those_that_torchvision_reads(place: str, zipped: bool, tmp_path: Path) -> None:
    write(tmp_path / place, zipped=zipped)
    write(tmp_path / place, "train", zipped=zipped, levels=255 - LEVELS)
    images = open_dataset(f"idx:{tmp_path}", "test")
    assert images.class_names == ("0", "1", "2")
    if place == "MNIST/raw" and not zipped:
        theirs = MNIST(str(tmp_path), train=False)
        assert images.labels == theirs.targets.tolist()
        levels = theirs.data.numpy()
    else:
        levels = LEVELS
    for index, image in enumerate(levels):
        np.testing.assert_array_equal(images.read(index).numpy(), image[None].astype(np.float32) / 255)
    torch.testing.assert_close(open_dataset(f"idx:{tmp_path}", "train").read(0), 1 - images.read(0))
    assert EvalSubset.of(images).image_shape == (1, 5, 4)


def test_one_of_several_files_is_named(tmp_path: Path) -> None:
    for name in ("emnist-letters-test", "emnist-digits-test"):
        write(tmp_path, name)
    said = refused(lambda: open_dataset(f"idx:{tmp_path}", "test"))
    assert "has several files of test images (emnist-digits-test-images-idx3-ubyte, emnist-letters-" in said
    named = open_dataset(f"idx:{tmp_path}/emnist-letters-test-images-idx3-ubyte", "test")
    assert named.labels == LABELS.tolist()
    assert named.notes == ("Images: those in emnist-letters-test-images-idx3-ubyte.",)


def test_a_file_that_is_there_packed_and_unpacked_is_one(tmp_path: Path) -> None:
    assert len(open_dataset(f"idx:{write(write(tmp_path), zipped=True)}", "test")) == 6


def test_names_of_classes_are_those_of_a_list(tmp_path: Path) -> None:
    order = ClassOrder.of("a list", [["shirt"], ["coat"], ["bag"], ["boot"]])
    images = open_dataset(f"idx:{write(tmp_path)}", "test", class_order=order)
    assert images.class_names == ("shirt", "coat", "bag", "boot")
    short = ClassOrder.of("a list", [["shirt"], ["coat"]])
    said = refused(lambda: EvalSubset.of(open_dataset(f"idx:{tmp_path}", "test", class_order=short)))
    assert "has a label 2 and 2 classes" in said


IMAGES, NAMES = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"

BROKEN = {
    "other type": (IMAGES, idx(LEVELS.astype(">f4"), kind=13), "is no IDX file of unsigned bytes with 3 dimensions"),
    "colours": (IMAGES, idx(LEVELS[..., None].repeat(3, axis=3)), "is no IDX file of unsigned bytes with 3 dim"),
    "text": (IMAGES, b"no images at all", "is no IDX file of unsigned bytes"),
    "short header": (IMAGES, idx(LEVELS)[:9], "is damaged or may not be read"),
    "cut off": (IMAGES, idx(LEVELS)[:-7], "should hold 120 bytes and holds 113: get it again"),
    "surplus": (IMAGES, idx(LEVELS) + b"\0", "should hold 120 bytes and holds more: get it again"),
    "too few labels": (NAMES, idx(LABELS[:-1]), "has 6 images and"),
    "claims to be huge": (IMAGES, struct.pack(">HBBIII", 0, 8, 3, 2**32 - 1, 2**32 - 1, 2**32 - 1), ": "),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_refused_by_its_path(kind: str, tmp_path: Path) -> None:
    name, content, said = BROKEN[kind]
    (write(tmp_path) / name).write_bytes(content)
    message = refused(lambda: open_dataset(f"idx:{tmp_path}", "test"))
    assert said in message
    assert str(tmp_path / name) in message


def test_packed_files_are_not_unpacked_further_than_they_say(tmp_path: Path) -> None:
    write(tmp_path, zipped=True)
    bomb = gzip.compress(idx(LEVELS) + bytes(10_000_000))
    (tmp_path / f"{IMAGES}.gz").write_bytes(bomb)
    assert "holds more" in refused(lambda: Idx(tmp_path, "test"))
    (tmp_path / f"{IMAGES}.gz").write_bytes(gzip.compress(idx(LEVELS))[:-30])
    assert "is damaged or may not be read" in refused(lambda: Idx(tmp_path, "test"))


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    assert "is not there: give a folder with MNIST's" in refused(lambda: Idx(tmp_path / "nowhere", "test"))
    assert "has no file of test images such as t10k-images" in refused(lambda: Idx(tmp_path, "test"))
    (write(tmp_path) / NAMES).unlink()
    assert f"has no file of labels beside it, {NAMES}: " in refused(lambda: Idx(tmp_path, "test"))
