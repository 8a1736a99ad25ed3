"""Pascal VOC on a made folder: pictures and masks that fit, and lists and masks that cannot be right."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import VOCSegmentation

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.data.preprocessing import Preprocessing
from robustbench_bcos.data.subset import open_dataset
from robustbench_bcos.data.voc import BORDER, Voc
from tests.data.imagenet_tree import jpeg

NAMES = ("2007_000033", "2007_000042", "2007_000061")
SIZE = (24, 30)


def write_mask(file: Path, *, size: tuple[int, int] = SIZE, value: int = 15) -> np.ndarray:
    """A rectangle of one class with a border round it, as a palette image."""
    classes = np.zeros(size, dtype=np.uint8)
    classes[5:20, 5:20] = BORDER
    classes[6:19, 6:19] = value
    image = Image.new("P", (size[1], size[0]))
    image.putpalette([level for level in range(256) for _ in range(3)])
    image.putdata(classes.reshape(-1).tolist())
    image.save(file)
    return classes


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    base = tmp_path / "VOCdevkit/VOC2012"
    for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (base / part).mkdir(parents=True)
    for seed, name in enumerate(NAMES):
        (base / "JPEGImages" / f"{name}.jpg").write_bytes(jpeg(seed, size=SIZE))
        write_mask(base / "SegmentationClass" / f"{name}.png")
    (base / "ImageSets/Segmentation/train.txt").write_text(f"{NAMES[2]}\n", encoding="utf-8")
    (base / "ImageSets/Segmentation/val.txt").write_text("\n".join(NAMES[:2]) + "\n", encoding="utf-8")
    return tmp_path


def refusal(attempt: Callable[[], object]) -> str:
    with pytest.raises(RequestError) as caught:
        attempt()
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_images_and_masks_are_torchvisions(voc: Path) -> None:
    ours, theirs = Voc(voc, "test"), VOCSegmentation(str(voc), image_set="val")
    assert len(ours) == len(theirs) == 2
    assert len(Voc(voc, "train")) == 1
    for index in range(2):
        image, mask = ours.read(index)
        picture, classes = theirs[index]
        np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), np.asarray(picture).astype(np.float32) / 255)
        np.testing.assert_array_equal(mask.numpy(), np.asarray(classes))
        assert set(mask.unique().tolist()) == {0, 15, BORDER}


def test_there_are_twenty_classes_and_the_background(voc: Path) -> None:
    names = Voc(voc, "test").class_names
    assert len(names) == len(set(names)) == 21
    assert (names[0], names[8], names[15], names[20]) == ("background", "cat", "person", "tvmonitor")


def test_image_and_mask_are_framed_alike(voc: Path) -> None:
    image, mask = Voc(voc, "test", preprocessing=Preprocessing(resize=12, crop=(10, 12))).read(0)
    assert image.shape == (3, 10, 12)
    assert mask.shape == (10, 12)
    assert mask.dtype == torch.int64
    # Halved: 15 columns, of which 1 is cut off on the left, and 1 row above.
    whole = Voc(voc, "test").read(0).mask
    assert torch.equal(mask, whole[3:23:2, 5:29:2])


def test_a_folder_that_is_not_vocs_is_refused(tmp_path: Path, voc: Path) -> None:
    assert "holds no Pascal VOC 2012" in refusal(lambda: Voc(tmp_path / "nowhere", "test"))
    (voc / "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt").unlink()
    assert "holds no Pascal VOC 2012" in refusal(lambda: Voc(voc, "test"))


@pytest.mark.parametrize("name", ["../JPEGImages/2007_000033", "/etc/passwd", "sub/2007_000033"])
def test_a_list_leads_out_of_no_folder(voc: Path, name: str) -> None:
    lists = voc / "VOCdevkit/VOC2012/ImageSets/Segmentation"
    (lists / "val.txt").write_text(f"{NAMES[0]}\n{name}\n", encoding="utf-8")
    assert "which lies outside" in refusal(lambda: Voc(voc, "test"))


def test_masks_that_cannot_be_right_are_refused_by_their_path(voc: Path) -> None:
    images, file = Voc(voc, "test"), voc / "VOCdevkit/VOC2012/SegmentationClass" / f"{NAMES[0]}.png"
    write_mask(file, value=21)
    assert refusal(lambda: images.read(0)).startswith(
        f"mask {file} holds 21, which is neither one of 21 classes nor 255"
    )
    write_mask(file, size=(30, 24))
    assert refusal(lambda: images.read(0)).startswith(f"mask {file} is not as large as ")
    Image.new("RGB", SIZE[::-1]).save(file)
    assert refusal(lambda: images.read(0)).startswith(f"mask {file} is of mode RGB: it must hold one class number")
    write_mask(file)
    file.write_bytes(file.read_bytes()[: file.read_bytes().index(b"IDAT") + 10])
    assert refusal(lambda: images.read(0)).startswith(f"image {file} cannot be decoded")
    file.unlink()
    assert str(file) in refusal(lambda: images.read(0))


def test_it_is_no_dataset_to_classify(voc: Path) -> None:
    said = refusal(lambda: open_dataset("voc", "test", data_dir=voc))
    assert said.startswith("--dataset voc has several objects in a picture and so no label for it")
