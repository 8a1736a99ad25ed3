"""Datasets that say which pixels belong to which class."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.data.dataset import BACKGROUND, VOID, AbstractDataset
from robustbench_bcos.data.datasets.digit_pairs import GROUND, DigitPairs
from robustbench_bcos.data.datasets.digits import Digits
from robustbench_bcos.data.grey import WithChannels
from robustbench_bcos.data.opening import locate_dataset, open_dataset
from robustbench_bcos.data.preprocessing import AS_THEY_ARE, Preprocessing
from robustbench_bcos.data.remembered import Remembered
from robustbench_bcos.data.subset import EvalSubset
from tests.refusals import refused

AEROPLANE, BICYCLE, CAT = 1, 2, 8
"""Indices in VOC's masks, whose 0 is the background; labels are one less."""

COLOURS = {0: (0, 0, 0), AEROPLANE: (128, 0, 0), BICYCLE: (0, 128, 0), CAT: (64, 0, 0), 255: (224, 224, 192)}
"""VOC's, of the indices that masks of these tests have."""

Indices = NDArray[np.uint8]


def blocks(*, height: int = 12, width: int = 20) -> Indices:
    """A cat and a smaller bicycle with void between them."""
    indices = np.zeros((height, width), dtype=np.uint8)
    indices[2:10, 1:9] = CAT
    indices[2:10, 9] = 255
    indices[2:10, 10:14] = BICYCLE
    return indices


def with_palette(indices: Indices) -> Image.Image:
    mask = Image.fromarray(indices).convert("P")
    mask.putdata(indices.ravel().tolist())
    palette = [0] * 768
    for index, colour in COLOURS.items():
        palette[3 * index : 3 * index + 3] = colour
    mask.putpalette(palette)
    return mask


def in_colours(indices: Indices) -> Image.Image:
    return with_palette(indices).convert("RGB")


def as_grey(indices: Indices) -> Image.Image:
    return Image.fromarray(indices)


def with_indices_in_another_order(indices: Indices) -> Image.Image:
    """As programs leave it that make files smaller: the colours are right."""
    used = np.unique(indices).tolist()
    mask = Image.fromarray(np.searchsorted(used, indices).astype(np.uint8)).convert("P")
    mask.putdata(np.searchsorted(used, indices).ravel().tolist())
    mask.putpalette([level for index in used for level in COLOURS[index]] + [0] * (768 - 3 * len(used)))
    return mask


def write(root: Path, masks: dict[str, Image.Image], *, listed: bool = True, size: tuple[int, int] = (20, 12)) -> Path:
    folder = root / "VOCdevkit" / "VOC2012"
    for place in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / place).mkdir(parents=True)
    for number, (name, mask) in enumerate(masks.items()):
        Image.new("RGB", size, (40 * number, 90, 200)).save(folder / "JPEGImages" / f"{name}.jpg")
        mask.save(folder / "SegmentationClass" / f"{name}.png")
    if listed:
        (folder / "ImageSets/Segmentation/val.txt").write_text("".join(f"{name}\n" for name in masks))
    return folder


def refusal(root: Path, preprocessing: Preprocessing = AS_THEY_ARE) -> str:
    return refused(open_dataset, "voc", "test", data_dir=root, preprocessing=preprocessing)


@pytest.mark.parametrize("form", [with_palette, in_colours, as_grey, with_indices_in_another_order])
def test_a_mask_of_voc_is_read_by_its_indices_or_colours(form: object, tmp_path: Path) -> None:
    assert callable(form)
    write(tmp_path, {"one": form(blocks())})
    images = open_dataset("voc", "test", data_dir=tmp_path)
    mask = images.mask(0)
    expected = torch.tensor(blocks().astype(int)) - 1
    assert torch.equal(mask.int(), expected.where(expected != 254, VOID).int())
    assert images.class_names[images.labels[0]] == "cat"
    assert images.read(0).shape[1:] == mask.shape


def test_the_folder_itself_will_do_and_lists_may_be_missing(tmp_path: Path) -> None:
    folder = write(tmp_path, {"one": with_palette(blocks()), "two": with_palette(blocks())}, listed=False)
    images = open_dataset("voc", "test", data_dir=folder)
    assert len(images) == 2
    assert "no ImageSets" in images.notes[0]
    assert len(open_dataset("voc:2012", "test", data_dir=tmp_path)) == 2


def test_masks_are_framed_as_their_images_and_classes_do_not_mix(tmp_path: Path) -> None:
    write(tmp_path, {"one": with_palette(blocks())})
    images = open_dataset("voc", "test", data_dir=tmp_path, preprocessing=Preprocessing(resize=19, crop=(17, 23)))
    mask = images.mask(0)
    assert mask.shape == images.read(0).shape[1:] == (17, 23)
    assert set(mask.unique().tolist()) == {VOID, BACKGROUND, CAT - 1, BICYCLE - 1}


def test_a_smaller_mask_of_the_same_proportions_is_resized_to_its_image(tmp_path: Path) -> None:
    write(tmp_path, {"one": with_palette(blocks())}, size=(40, 24))
    images = open_dataset("voc", "test", data_dir=tmp_path)
    assert torch.equal(images.mask(0), images.mask(0)[::2, ::2].repeat_interleave(2, 0).repeat_interleave(2, 1))
    assert any("Masks resized" in note for note in images.notes)


def test_images_without_an_object_are_left_out_and_counted(tmp_path: Path) -> None:
    void = np.full((12, 20), 255, dtype=np.uint8)
    write(tmp_path, {"void": with_palette(void), "one": with_palette(blocks()), "empty": as_grey(void * 0)})
    images = open_dataset("voc", "test", data_dir=tmp_path)
    assert len(images) == 1
    assert any("Left out: 2" in note for note in images.notes)


def test_masks_that_are_all_void_are_refused(tmp_path: Path) -> None:
    write(tmp_path, {"void": as_grey(np.full((12, 20), 255, dtype=np.uint8))})
    assert "none of the 1 masks" in refusal(tmp_path)


@pytest.mark.parametrize("kind", ["mask", "image"])
def test_a_missing_file_is_named_before_torch_is_imported_and_after(kind: str, tmp_path: Path) -> None:
    folder = write(tmp_path, {"one": with_palette(blocks()), "two": with_palette(blocks())})
    where = folder / ("SegmentationClass/two.png" if kind == "mask" else "JPEGImages/two.jpg")
    where.unlink()
    for ask in (open_dataset, locate_dataset):
        with pytest.raises(RequestError, match=rf"{kind} .*two.* is missing: put it there, take two off the list"):
            ask("voc", "test", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (as_grey(blocks(height=12, width=12)), "12x12 pixels and its image 12x20"),
        (as_grey(np.full((12, 20), 77, dtype=np.uint8)), "class 77"),
        (Image.new("RGB", (20, 12), (1, 2, 3)), r"the colour (1, 2, 3)"),
        (Image.new("I;16", (20, 12)), "mode I;16"),
    ],
    ids=["other proportions", "unknown class", "unknown colour", "16 bits"],
)
def test_a_mask_of_another_size_or_palette_is_refused(mask: Image.Image, said: str, tmp_path: Path) -> None:
    write(tmp_path, {"one": mask})
    assert said in refusal(tmp_path)


def test_folders_that_hold_no_voc_are_refused(tmp_path: Path) -> None:
    assert "holds no VOCdevkit/VOC2012" in refusal(tmp_path)
    folder = write(tmp_path, {"one": with_palette(blocks())})
    with pytest.raises(RequestError, match="VOC1999"):
        open_dataset("voc:1999", "test", data_dir=tmp_path)
    (folder / "ImageSets/Segmentation/val.txt").write_text("../../secret\n")
    assert "no name of a file" in refusal(tmp_path)


def test_ink_is_the_digit_and_faint_ink_is_void() -> None:
    digits = Digits("test")
    for index in range(20):
        ink, mask = digits.read(index)[0], digits.mask(index)
        assert torch.equal(mask == digits.labels[index], ink >= 0.5)
        assert torch.equal(mask == BACKGROUND, ink == 0)


def test_pairs_show_two_scans_of_different_classes_over_darker_ground() -> None:
    pairs, digits = DigitPairs("test"), Digits("test")
    for index in range(20):
        picture, mask = pairs.read(index)[0], pairs.mask(index)
        classes = set()
        for half, of_half, place in zip(picture.split(8, 1), mask.split(8, 1), pairs.places[index], strict=True):
            ink = digits.read(place)[0]
            assert torch.equal(of_half, digits.mask(place))
            assert torch.equal(half[ink > GROUND], ink[ink > GROUND])
            assert half[ink <= GROUND].max() <= GROUND
            classes.add(digits.labels[place])
        assert len(classes) == 2
        assert pairs.labels[index] in classes


def test_no_scan_is_in_two_pairs_and_hardly_any_in_none() -> None:
    pairs = DigitPairs("test")
    used = [place for pair in pairs.places for place in pair]
    assert len(used) == len(set(used)) >= 0.95 * len(Digits("test"))


def test_pairs_depend_on_their_seed_alone() -> None:
    one, again, other = DigitPairs("test"), open_dataset("digit_pairs:0", "test"), open_dataset("digit_pairs:1", "test")
    assert torch.equal(one.read(3), again.read(3))
    assert not torch.equal(one.read(3), other.read(3))
    assert other.name == "digit_pairs:1"
    with pytest.raises(RequestError, match="takes a seed"):
        open_dataset("digit_pairs:x", "test")


@pytest.mark.parametrize("wrap", [Remembered, lambda images: WithChannels(images, 1)])
def test_what_wraps_a_dataset_hands_its_masks_on(wrap: type[Remembered]) -> None:
    digits = Digits("test")
    wrapped: AbstractDataset = wrap(digits)
    assert wrapped.has_masks
    assert torch.equal(wrapped.mask(5), digits.mask(5))


def test_a_dataset_without_masks_says_so(tmp_path: Path) -> None:
    (tmp_path / "class").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "class" / "one.png")
    images = open_dataset(f"folder:{tmp_path}", "test")
    assert not images.has_masks
    with pytest.raises(RequestError, match="has no masks"):
        images.mask(0)


def test_an_image_shows_its_own_class_alone_and_void_does_not_count() -> None:
    digits = Digits("test")
    (first, second) = EvalSubset(digits, (0, 7)).objects()
    assert first is not None
    mask = digits.mask(0)
    assert torch.equal(first.region[0], mask == digits.labels[0])
    assert torch.equal(first.valid, mask != VOID)
    assert 0 < int(first.valid.sum()) < mask.numel()
    assert second is not None
    assert not torch.equal(first.region, second.region)
