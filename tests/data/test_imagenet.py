"""ImageNet as people have it: labels that models share, files that are not RGB, and folders that are not complete."""

import shutil
import warnings
import weakref
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.datasets.imagenette import Imagenette
from torchvision.transforms.functional import to_tensor

from robustbench_bcos.data import file_dataset
from robustbench_bcos.data.dataset import AbstractDataset
from robustbench_bcos.data.decoding import Decoded, decode_rgb
from robustbench_bcos.data.opening import open_dataset
from robustbench_bcos.data.preprocessing import Preprocessing
from robustbench_bcos.data.subset import EvalSubset
from tests.data.imagenet_tree import all_wnids, jpeg, timm_info, write_classes
from tests.refusals import refused

SMALL = Preprocessing(resize=18, crop=(16, 16))
SUBSET = ("n01440764", "n02102040", "n02979186", "n03000684", "n03888257")


def open_imagenet(root: Path, image_list: Path | None = None, preprocessing: Preprocessing = SMALL) -> AbstractDataset:
    return open_dataset("imagenet", "test", data_dir=root, preprocessing=preprocessing, image_list=image_list)


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All 1,000 classes, two images each, in ``val``."""
    root = tmp_path_factory.mktemp("imagenet")
    write_classes(root / "val", all_wnids(), images=2)
    return root


@pytest.fixture
def subset(tmp_path: Path) -> Path:
    """Five classes, and the list of all 1,000 beside them."""
    write_classes(tmp_path / "val", SUBSET)
    write_mapping(tmp_path / "LOC_synset_mapping.txt")
    return tmp_path


def write_mapping(file: Path) -> None:
    lemmas = dict(line.split("\t", 1) for line in timm_info("imagenet_synset_to_lemma.txt"))
    # Its own order does not matter.
    lines = [f"{wnid} {lemmas[wnid]}" for wnid in reversed(all_wnids())]
    file.write_text("\n".join(lines), encoding="utf-8")


def test_labels_and_files_are_torchvisions(everything: Path) -> None:
    ours, theirs = open_imagenet(everything), ImageFolder(str(everything / "val"))
    assert len(ours) == 2000
    assert ours.labels == theirs.targets
    assert ours.name == "imagenet"
    for index in (0, 1, 999, 1999):
        picture = theirs[index][0]
        assert torch.equal(ours.read(index), SMALL.pixels(picture, "it"))


def test_every_class_has_a_name_of_its_synset(everything: Path) -> None:
    names = open_imagenet(everything).class_names
    assert len(names) == len(set(names)) == 1000
    lemmas = dict(line.split("\t", 1) for line in timm_info("imagenet_synset_to_lemma.txt"))
    words = [{word.strip().lower() for word in lemmas[wnid].split(",")} for wnid in all_wnids()]
    odd = [name for name, known in zip(names, words, strict=True) if name.lower() not in known]
    # Two synsets share a word with another class, so torchvision made names up for them.
    assert odd == ["crane bird", "maillot tank suit"]


def test_the_classes_of_imagenette_have_their_published_names(everything: Path) -> None:
    names = open_imagenet(everything).class_names
    for wnid, published in Imagenette._WNID_TO_CLASS.items():
        assert names[all_wnids().index(wnid)].lower() in {name.lower() for name in published}


def test_the_classes_may_lie_in_val_in_test_or_in_the_folder_itself(everything: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other/test").symlink_to(everything / "val")
    datasets = [open_imagenet(place) for place in (everything, everything / "val", tmp_path / "other")]
    assert len({tuple(dataset.labels) for dataset in datasets}) == 1
    for dataset in datasets[1:]:
        assert torch.equal(dataset.read(3), datasets[0].read(3))
    # What lies beside the classes is no class.
    (everything / "val/.cache").mkdir(exist_ok=True)
    assert len(open_imagenet(everything)) == 2000


def test_a_training_part_is_read_from_train(tmp_path: Path, subset: Path) -> None:
    said = refused(lambda: open_dataset("imagenet", "train", data_dir=subset))
    assert said.endswith("has no folder train: training needs DIR/train/WNID/*.JPEG")
    write_classes(subset / "train", SUBSET[:1], images=3)
    assert open_dataset("imagenet", "train", data_dir=subset).labels == [0, 0, 0]


def test_a_limit_takes_one_image_of_each_class_before_a_second(everything: Path) -> None:
    images = EvalSubset.of(open_imagenet(everything), 1000)
    assert [images.dataset.labels[index] for index in images.indices] == list(range(1000))
    assert images.batch(0, 3).images.shape == (3, 3, 16, 16)


# Fewer than all classes


def test_labels_of_a_part_are_places_among_all_classes(subset: Path) -> None:
    part = open_imagenet(subset)
    assert part.labels == [all_wnids().index(wnid) for wnid in SUBSET]
    assert len(part.class_names) == 1000
    assert [part.class_names[label] for label in part.labels[:2]] == ["tench", "English springer"]


def test_the_list_of_classes_may_lie_among_the_classes(subset: Path) -> None:
    (subset / "LOC_synset_mapping.txt").rename(subset / "val/LOC_synset_mapping.txt")
    assert open_imagenet(subset).labels == [all_wnids().index(wnid) for wnid in SUBSET]


def test_a_part_without_the_list_of_all_classes_is_refused(subset: Path) -> None:
    (subset / "LOC_synset_mapping.txt").unlink()
    said = refused(lambda: open_imagenet(subset))
    assert said.startswith(f"{subset / 'val'} holds 5 class folders that are not the 1,000 of ImageNet")
    assert said.endswith("put LOC_synset_mapping.txt into data_dir, or use dataset folder:DIR for these classes alone")


def test_a_thousand_other_classes_are_not_taken_for_imagenets(tmp_path: Path) -> None:
    wnids = all_wnids()
    for wnid in [*wnids[:-1], "n99999999"]:
        (tmp_path / wnid).mkdir()
    said = refused(lambda: open_imagenet(tmp_path))
    assert "holds 1000 class folders that are not the 1,000 of ImageNet" in said
    write_mapping(tmp_path / "LOC_synset_mapping.txt")
    said = refused(lambda: open_imagenet(tmp_path))
    assert said == f"{tmp_path / 'n99999999'} is not one of ImageNet's 1,000 classes: take it out"


@pytest.mark.parametrize("content", ["", "n01440764 tench\n", "\x00\xff"])
def test_a_list_of_other_classes_is_refused(subset: Path, content: str) -> None:
    (subset / "LOC_synset_mapping.txt").write_text(content, encoding="latin-1")
    said = refused(lambda: open_imagenet(subset))
    assert said == f"{subset}/LOC_synset_mapping.txt does not name ImageNet's 1,000 classes by their WNIDs: replace it"


# Lists of images


def test_a_list_chooses_images_and_their_indices_are_the_same_for_whoever_has_them(
    everything: Path, tmp_path: Path
) -> None:
    file = tmp_path / "list.txt"
    chosen = ["n02102040/ILSVRC2012_val_00000436.JPEG", "ILSVRC2012_val_00000001.JPEG", "ILSVRC2012_val_00002000.JPEG"]
    file.write_text("\n".join(chosen), encoding="utf-8")
    listed = open_imagenet(everything, file)
    assert listed.labels == [0, 217, 999]
    # Somebody who has nothing but the listed images, in folders that are otherwise empty.
    for wnid in all_wnids():
        (tmp_path / "few/val" / wnid).mkdir(parents=True)
    for path in [file for name in chosen for file in (everything / "val").glob(f"*/{name.rpartition('/')[2]}")]:
        shutil.copy(path, tmp_path / "few/val" / path.parent.name)
    few = open_imagenet(tmp_path / "few", file)
    assert EvalSubset.of(few).indices == EvalSubset.of(listed).indices == (0, 1, 2)
    assert EvalSubset.of(few).digest == EvalSubset.of(listed).digest
    assert "holds no images, and neither do 996 others: " in refused(lambda: open_imagenet(tmp_path / "few"))


def test_a_list_chooses_from_any_folder_of_images(subset: Path, tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    file.write_text(f"{SUBSET[1]}/ILSVRC2012_val_00000002.JPEG", encoding="utf-8")
    name = f"folder:{subset / 'val'}"
    listed = open_dataset(name, "test", image_list=file, preprocessing=SMALL)
    assert listed.labels == [1]
    assert torch.equal(listed.read(0), open_dataset(name, "test", preprocessing=SMALL).read(1))


# Files


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_cmyk_files_become_rgb_as_torchvisions_loader_makes_them(subset: Path, mode: str) -> None:
    file = subset / "val" / SUBSET[2] / "ILSVRC2012_val_00000003.JPEG"
    file.write_bytes(jpeg(7, mode=mode))
    with Image.open(file) as picture:
        assert picture.mode == mode
    theirs = ImageFolder(str(subset / "val"), transform=to_tensor)[2][0]
    ours = open_imagenet(subset, preprocessing=Preprocessing())
    assert torch.equal(ours.read(2), theirs)
    assert theirs.shape[0] == 3
    assert open_imagenet(subset).read(2).shape == (3, 16, 16)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.7])
def test_a_damaged_file_is_refused_by_its_path(subset: Path, share: float) -> None:
    file = subset / "val" / SUBSET[2] / "ILSVRC2012_val_00000003.JPEG"
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    said = refused(lambda: EvalSubset.of(open_imagenet(subset)).digest)
    assert said.startswith(f"image {file} cannot be decoded")


def test_a_program_in_place_of_a_picture_is_not_run(subset: Path) -> None:
    file = subset / "val" / SUBSET[2] / "ILSVRC2012_val_00000003.JPEG"
    file.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\nshowpage\n", encoding="ascii")
    with Image.open(file) as picture:
        # Pillow alone would hand it to an interpreter.
        assert picture.format == "EPS"
    assert "cannot identify image file" in refused(lambda: open_imagenet(subset).read(2))


def test_an_image_smaller_than_the_crop_is_refused_by_its_path(subset: Path) -> None:
    file = subset / "val" / SUBSET[2] / "ILSVRC2012_val_00000003.JPEG"
    file.write_bytes(jpeg(size=(15, 40)))
    images = open_imagenet(subset, preprocessing=Preprocessing(crop=(16, 16)))
    said = refused(lambda: EvalSubset.of(images).digest)
    assert said.startswith(f"image {file} has 15x40 pixels, less than the 16x16 of the crop: give resize 16 or more")


def test_images_of_several_sizes_need_preprocessing(subset: Path) -> None:
    said = refused(lambda: EvalSubset.of(open_imagenet(subset, preprocessing=Preprocessing())).digest)
    assert said.endswith("all images of a dataset need one size, which resize and crop give them")


def test_what_pillow_warns_of_does_not_reach_the_user(subset: Path) -> None:
    file = subset / "val" / SUBSET[2] / "ILSVRC2012_val_00000003.JPEG"
    # A palette whose transparency is a string of bytes, of which Pillow warns when it is converted.
    indexed = Image.new("P", (30, 24))
    indexed.putpalette([0, 0, 0, 255, 255, 255])
    indexed.save(file, "PNG", transparency=b"\x00\xff")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        open_imagenet(subset).read(2)
    assert not caught


def test_there_is_one_picture_in_memory_at_a_time(everything: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[Image.Image]] = []

    def decode(file: Path, *, as_torchvision: bool) -> Decoded:
        decoded = decode_rgb(file, as_torchvision=as_torchvision)
        assert not any(earlier() for earlier in made)
        made.append(weakref.ref(decoded.picture))
        return decoded

    monkeypatch.setattr(file_dataset, "decode_rgb", decode)
    images = EvalSubset.of(open_imagenet(everything), 300)
    _ = images.digest
    # The first tells the size of all, and is read again.
    assert len(made) == 301
    assert not any(isinstance(value, torch.Tensor) for value in vars(images.dataset).values())


# Folders


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    said = refused(lambda: open_imagenet(tmp_path / "nowhere"))
    assert said.endswith("/nowhere is not a folder: give the one that holds ImageNet's folder val")
    assert refused(lambda: open_dataset("imagenet", "test")).startswith("dataset imagenet needs data_dir")


def test_images_that_are_not_sorted_into_classes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "val").mkdir()
    (tmp_path / "val/ILSVRC2012_val_00000001.JPEG").write_bytes(jpeg())
    said = refused(lambda: open_imagenet(tmp_path))
    assert said.startswith(
        f"{tmp_path / 'val'} holds no folders that are named by WNIDs, such as n01440764, or by all "
    )


def test_an_empty_class_folder_is_refused_by_its_path(subset: Path) -> None:
    (subset / "val" / SUBSET[2] / "ILSVRC2012_val_00000003.JPEG").unlink()
    said = refused(lambda: open_imagenet(subset))
    assert said.startswith(f"class folder {subset / 'val' / SUBSET[2]} holds no images: fill what is empty")


def test_the_numbered_folders_of_imagenetv2_are_labels(tmp_path: Path) -> None:
    write_classes(tmp_path, map(str, range(1000)))
    images = open_imagenet(tmp_path)
    assert [images._files[index].parent.name for index in range(3)] == ["0", "1", "10"]
    assert images.labels[:3] == [0, 1, 10]
    assert sorted(images.labels) == list(range(1000))
    assert images.class_names[:2] == ("tench", "goldfish")
    shutil.rmtree(tmp_path / "0")
    said = refused(lambda: open_imagenet(tmp_path))
    assert "or by all numbers from 0 to 999: " in said
    assert "order as text (1, 10, 100, 101, 102, ...)" in refused(lambda: open_dataset(f"folder:{tmp_path}", "test"))


@pytest.mark.parametrize("name", ["valid", "validation", "test", "Val"])
def test_a_split_may_be_called_otherwise(name: str, subset: Path) -> None:
    (subset / "val").rename(subset / name)
    assert len(open_imagenet(subset)) == len(SUBSET)
    assert f"Images: those in {name}." in open_imagenet(subset).notes
