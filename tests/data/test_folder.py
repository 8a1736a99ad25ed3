"""Image folders as people have them, and what is said of broken ones."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from robustbench_bcos.data.dataset import AbstractDataset
from robustbench_bcos.data.opening import open_dataset
from robustbench_bcos.data.subset import EvalSubset
from tests.refusals import refused

HEIGHT, WIDTH = 9, 14


def paint(file: Path, *, mode: str = "RGB", size: tuple[int, int] = (HEIGHT, WIDTH), seed: int = 0) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    levels = np.random.default_rng(seed).integers(0, 256, (*size, len(mode)), dtype=np.uint8)
    Image.fromarray(levels.squeeze()).save(file)
    return file


def open_folder(root: Path) -> AbstractDataset:
    return open_dataset(f"folder:{root}", "test")


def test_images_are_found_in_class_folders_of_the_split_or_of_the_folder_itself(tmp_path: Path) -> None:
    for seed, place in enumerate(["flat/cat/1.png", "flat/ant/1.png", "flat/cat/0.jpeg"]):
        paint(tmp_path / place, seed=seed)
    for seed, place in enumerate(["split/test/cat/1.png", "split/test/ant/1.png", "split/test/cat/0.jpeg"]):
        paint(tmp_path / place, seed=seed)
    paint(tmp_path / "split/train/cat/2.png", seed=7)
    flat, test = open_folder(tmp_path / "flat"), open_folder(tmp_path / "split")
    assert flat.name == f"folder:{tmp_path}/flat"
    assert flat.class_names == test.class_names == ("ant", "cat")
    assert flat.labels == test.labels == [0, 1, 1]
    for index in range(3):
        assert torch.equal(flat.read(index), test.read(index))
    assert open_dataset(f"folder:{tmp_path}/split", "train").labels == [0]


def test_a_folder_without_a_training_part_cannot_be_trained_on(tmp_path: Path) -> None:
    paint(tmp_path / "cat/1.png")
    assert "has no folder train" in refused(lambda: open_dataset(f"folder:{tmp_path}", "train"))


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("suffix", ["png", "jpg", "jpeg", "bmp"])
def test_decoded_values_are_pillows(tmp_path: Path, suffix: str, mode: str) -> None:
    file = paint(tmp_path / f"cat/1.{suffix}", mode=mode)
    image = open_folder(tmp_path).read(0)
    assert image.dtype == torch.float32
    assert image.shape == (3, HEIGHT, WIDTH)
    with Image.open(file) as reference:
        levels = np.asarray(reference.convert("RGB"))
    np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), levels.astype(np.float32) / 255)
    if mode == "L":
        assert torch.equal(image, image[:1].expand(3, -1, -1))


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    message = refused(lambda: open_folder(tmp_path / "nowhere"))
    assert message.startswith(f"dataset folder:{tmp_path}/nowhere is not a folder: give")


def test_a_file_in_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    assert "is not a folder" in refused(lambda: open_folder(paint(tmp_path / "1.png")))


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    message = refused(lambda: open_folder(tmp_path))
    assert message.startswith(f"dataset folder:{tmp_path} holds no images")


def test_an_empty_class_folder_is_refused_and_named(tmp_path: Path) -> None:
    paint(tmp_path / "cat/1.png")
    (tmp_path / "unicorn").mkdir()
    assert "unicorn" in refused(lambda: open_folder(tmp_path))


def test_a_folder_of_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat/notes.txt").write_text("none")
    assert "holds no images" in refused(lambda: open_folder(tmp_path))


@pytest.mark.parametrize("suffix", ["jpeg", "png", "bmp", "webp"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.9])
def test_a_truncated_image_is_refused_by_its_path(tmp_path: Path, suffix: str, share: float) -> None:
    paint(tmp_path / f"cat/0.{suffix}")
    broken = paint(tmp_path / f"cat/1.{suffix}", seed=1)
    content = broken.read_bytes()
    broken.write_bytes(content[: int(share * len(content))])
    images = open_folder(tmp_path)
    assert images.read(0).shape == (3, HEIGHT, WIDTH)
    assert str(broken) in refused(lambda: images.read(1))
    assert str(broken) in refused(lambda: EvalSubset.of(images).digest)


def test_an_image_that_claims_to_be_huge_is_refused_by_its_path(tmp_path: Path) -> None:
    huge = paint(tmp_path / "cat/1.bmp")
    content = bytearray(huge.read_bytes())
    # Width and height in the header of a bitmap.
    content[18:26] = (50_000).to_bytes(4, "little") * 2
    huge.write_bytes(content)
    assert str(huge) in refused(lambda: open_folder(tmp_path).read(0))


def test_a_text_in_place_of_an_image_is_refused_by_its_path(tmp_path: Path) -> None:
    paint(tmp_path / "cat/1.png").write_text("no image")
    assert str(tmp_path / "cat/1.png") in refused(lambda: open_folder(tmp_path).read(0))


def test_an_image_of_another_size_is_refused_and_named(tmp_path: Path) -> None:
    paint(tmp_path / "ant/0.png")
    paint(tmp_path / "ant/1.png")
    paint(tmp_path / "cat/0.png", size=(WIDTH, HEIGHT))
    images = EvalSubset.of(open_folder(tmp_path))
    for attempt in (lambda: images.batch(0, 3), lambda: images.digest):
        message = refused(attempt)
        assert "image 2 of folder:" in message
        assert f"(3, {WIDTH}, {HEIGHT})" in message
        assert f"(3, {HEIGHT}, {WIDTH})" in message
