"""Folders as people have them: of splits, hidden ones, files of all kinds; nothing is skipped without a word."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from robustbench_bcos.data.class_order import ClassOrder
from robustbench_bcos.data.dataset import AbstractDataset, Split
from robustbench_bcos.data.opening import open_dataset
from robustbench_bcos.data.remembered import Remembered
from tests.data.test_folder import paint
from tests.refusals import refused

CLASSES = ("circle", "stick")


def tree(root: Path, *places: str) -> Path:
    for place in places:
        for seed, name in enumerate(CLASSES):
            paint(root / place / name / "1.png", seed=seed)
    return root


def opened(root: Path, split: Split = "test", classes: Sequence[str] = ()) -> AbstractDataset:
    order = ClassOrder.of("a list", [[name] for name in classes]) if classes else None
    return open_dataset(f"folder:{root}", split, class_order=order)


@pytest.mark.parametrize(
    ("places", "taken"),
    [
        (["train", "test"], "test"),
        (["train", "val"], "val"),
        (["train", "valid"], "valid"),
        (["train", "validation"], "validation"),
        (["Training", "Testing"], "Testing"),
        (["TRAIN", "VAL"], "VAL"),
        (["train", "val", "test"], "test"),
        (["val"], "val"),
        (["eval"], "eval"),
        (["train", "dev"], "dev"),
    ],
    ids=" ".join,
)
def test_a_split_is_found_by_any_of_its_names_and_said(places: list[str], taken: str, tmp_path: Path) -> None:
    images = opened(tree(tmp_path, *places))
    assert images.class_names == CLASSES
    assert images.labels == [0, 1]
    assert f"Images: those in its folder {taken}." in images.notes
    if len(places) > 1:
        assert opened(tmp_path, "train").notes == (f"Images: those in its folder {places[0]}.",)


def test_a_test_folder_without_labels_is_passed_over_for_one_that_has_them(tmp_path: Path) -> None:
    tree(tmp_path, "train", "val")
    paint(tmp_path / "test/1.png")
    assert opened(tmp_path).notes == ("Images: those in its folder val.",)


def test_folders_beside_those_of_splits_are_no_classes(tmp_path: Path) -> None:
    tree(tmp_path, "val")
    (tmp_path / "annotations").mkdir()
    assert opened(tmp_path).class_names == CLASSES


@pytest.mark.parametrize("name", ["train", "Train", "val", "test", "training"])
def test_a_split_without_another_is_no_class(name: str, tmp_path: Path) -> None:
    paint(tmp_path / name / "1.png")
    paint(tmp_path / "bus/1.png")
    said = refused(lambda: opened(tmp_path))
    assert f"holds the folder {name}, which is called as a split and not as a class is: give the folder" in said
    assert str(tmp_path / name) in said


def test_training_images_alone_are_not_taken_for_test_images(tmp_path: Path) -> None:
    assert "holds the folder train" in refused(lambda: opened(tree(tmp_path, "train")))
    assert opened(tmp_path / "train").class_names == CLASSES


def test_a_class_that_is_called_as_a_split_is_asked_for_in_a_list(tmp_path: Path) -> None:
    for name in ("train", "bus", "test"):
        paint(tmp_path / name / "1.png")
    images = opened(tmp_path, classes=("train", "test", "bus"))
    assert images.class_names == ("train", "test", "bus")
    assert images.labels == [2, 1, 0]


@pytest.mark.parametrize("name", ["train", "Val"])
def test_splits_inside_of_classes_are_not_mixed(name: str, tmp_path: Path) -> None:
    tree(tmp_path, "")
    paint(tmp_path / "stick" / name / "2.png")
    said = refused(lambda: opened(tmp_path))
    assert said.startswith(f"class folder {tmp_path}/stick holds the folder {name} of a split")
    assert said.endswith("lay them out as DIR/test/CLASS/*")


# Files


def save(file: Path, kind: str, seed: int = 0) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    levels = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    Image.fromarray(levels).save(file, kind)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("1.gif", "GIF"),
        ("1.jfif", "JPEG"),
        ("1.JPE", "JPEG"),
        ("1", "PNG"),
        ("1.image", "WEBP"),
        ("ILSVRC2012_val_1.jpg_large", "JPEG"),
        ("1.png", "JPEG"),
        ("1.pnm", "PPM"),
    ],
)
def test_an_image_is_one_by_its_content_whatever_its_name(name: str, kind: str, tmp_path: Path) -> None:
    save(tmp_path / "ant/0.png", "PNG")
    save(tmp_path / "ant" / name, kind, seed=1)
    images = opened(tmp_path)
    assert len(images) == 2
    assert images.read(1).shape == (3, 4, 5)
    assert images.notes == ()


def test_images_are_in_the_order_of_their_paths_whatever_tells_them_to_be_images(tmp_path: Path) -> None:
    for seed, name in enumerate(["a.png", "b", "c.gif", "sub/a.png"]):
        save(tmp_path / "ant" / name, "PNG", seed=seed)
    images = opened(tmp_path)
    alone = [opened(tmp_path).read(index) for index in range(4)]
    expected = [np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8) for seed in range(4)]
    for index, levels in enumerate(expected):
        np.testing.assert_array_equal(alone[index].numpy(), levels.transpose(2, 0, 1).astype(np.float32) / 255)
    assert len(images) == 4


def test_what_is_left_out_is_said_with_its_reason(tmp_path: Path) -> None:
    tree(tmp_path, "")
    for number in range(4):
        (tmp_path / f"circle/{number}.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (tmp_path / "stick/notes.txt").write_text("none")
    (tmp_path / "stick/._1.png").write_bytes(b"\0\5\x16\7")
    (tmp_path / "stick/.DS_Store").write_bytes(b"\0\0\0\1Bud1")
    save(tmp_path / "stick/.ipynb_checkpoints/1.png", "PNG")
    save(tmp_path / "__MACOSX/stick/1.png", "PNG")
    save(tmp_path / ".ipynb_checkpoints/1.png", "PNG")
    save(tmp_path / "loose.png", "PNG")
    (tmp_path / "README").write_text("none")
    images = opened(tmp_path)
    assert images.class_names == CLASSES
    assert images.labels == [0, 1]
    assert images.notes == (
        "Left out: 5 that are hidden or a system's (.ipynb_checkpoints, __MACOSX, stick/.DS_Store, ...).",
        "Left out: 1 that is in none of the class folders (loose.png).",
        "Left out: 5 that are no image of the formats BMP, GIF, JPEG, PNG, PPM, TIFF, WEBP (circle/0.heic, "
        "circle/1.heic, circle/2.heic, ...).",
    )
    assert Remembered(images).notes == images.notes


def test_what_a_list_of_images_does_not_name_is_left_out_on_purpose(tmp_path: Path) -> None:
    tree(tmp_path, "")
    (tmp_path / "stick/notes.txt").write_text("none")
    (tmp_path / "list.txt").write_text("circle/1.png")
    assert open_dataset(f"folder:{tmp_path}", "test", image_list=tmp_path / "list.txt").notes == ()
