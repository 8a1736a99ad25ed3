"""In what size a run's images are attacked: what the options say, what the models' cards say, and who is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from robustbench_bcos.bench.configured import make_config
from robustbench_bcos.bench.images import open_images, preprocessing_for
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.data.preprocessing import AS_THEY_ARE, Preprocessing
from robustbench_bcos.model_zoo.cards import Card, Entry, Zoo
from robustbench_bcos.model_zoo.models import CheckpointModel, ZooModel, find_models, find_weights
from tests.drafts import NATURAL

SHORT = Preprocessing(resize=256, crop=(224, 224))
LONG = Preprocessing(resize=232, crop=(224, 224))
BICUBIC = Preprocessing(resize=256, crop=(224, 224), interpolation="bicubic")


def source(name: str, preprocessing: Preprocessing | None) -> ZooModel:
    known: dict[str, Any] = {"image_size": [224, 224]}
    if preprocessing is not None:
        known = {
            "image_size": preprocessing.crop,
            "resize": preprocessing.resize,
            "interpolation": preprocessing.interpolation,
        }
    weights = {"file": "w.safetensors", "sha256": 64 * "0"}
    card = Card.model_validate({**NATURAL, **known, "name": name, "weights": weights, "licence": "CC0-1.0"})
    return ZooModel(Entry(card, Path()))


def chosen(*cards: Preprocessing | None, **options: Any) -> Preprocessing:
    sources = [source(f"model-{number}", card) for number, card in enumerate(cards)]
    return preprocessing_for(make_config(options), sources)


def paint(root: Path) -> Path:
    for number, size in enumerate([(20, 30), (30, 20)]):
        (root / f"class-{number}").mkdir(parents=True)
        levels = torch.randint(256, (*size, 3), generator=torch.Generator().manual_seed(number), dtype=torch.uint8)
        Image.fromarray(levels.numpy()).save(root / f"class-{number}" / "0.png")
    return root


def test_cards_that_agree_decide_where_options_are_silent() -> None:
    assert chosen(SHORT) == chosen(SHORT, SHORT) == chosen(SHORT, None) == chosen(None, SHORT) == SHORT
    assert chosen(BICUBIC) == BICUBIC
    assert chosen(None) == chosen() == AS_THEY_ARE
    assert (
        preprocessing_for(make_config({}), [CheckpointModel(file=Path("w.pth"), architecture="resnet20")])
        == AS_THEY_ARE
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"resize": 300}, Preprocessing(resize=300, crop=(224, 224))),
        # A crop alone is a crop alone: a resized image might have no room for it.
        ({"crop": 288}, Preprocessing(crop=(288, 288))),
        ({"resize": 320, "crop": 288}, Preprocessing(resize=320, crop=(288, 288))),
        ({"interpolation": "bicubic"}, BICUBIC),
        (
            {"resize": 320, "interpolation": "bicubic"},
            Preprocessing(resize=320, crop=(224, 224), interpolation="bicubic"),
        ),
    ],
)
def test_options_go_before_cards(options: dict[str, Any], expected: Preprocessing) -> None:
    assert chosen(SHORT, **options) == expected


def test_options_need_no_card() -> None:
    assert chosen(resize=40) == Preprocessing(resize=40)
    assert chosen(None, crop=16) == Preprocessing(crop=(16, 16))
    assert chosen(resize=40, crop=32, interpolation="bicubic") == Preprocessing(
        resize=40, crop=(32, 32), interpolation="bicubic"
    )


def test_cards_that_disagree_are_named_with_the_remedy() -> None:
    with pytest.raises(RequestError) as caught:
        chosen(SHORT, None, LONG)
    assert str(caught.value) == (
        "model 'model-0' was made for images with shorter side resized to 256 pixels (bilinear), middle 224x224 "
        "cropped out, and 'model-2' for images with shorter side resized to 232 pixels (bilinear), middle 224x224 "
        "cropped out: choose for both with --resize, --crop and --interpolation, or run them apart"
    )
    with pytest.raises(RequestError, match=r"'model-0' was made for .*bilinear.* and 'model-1' for .*bicubic"):
        chosen(SHORT, BICUBIC)


def test_options_settle_what_cards_disagree_on() -> None:
    assert chosen(SHORT, LONG, resize=256) == SHORT
    assert chosen(SHORT, BICUBIC, interpolation="bilinear") == SHORT
    assert chosen(SHORT, BICUBIC, crop=224) == Preprocessing(crop=(224, 224))
    with pytest.raises(RequestError, match="choose for both"):
        chosen(SHORT, LONG, interpolation="bicubic")
    with pytest.raises(RequestError, match="choose for both"):
        chosen(SHORT, BICUBIC, resize=256)


def test_what_a_library_does_to_pictures_counts_as_a_card() -> None:
    (resnet,) = find_models("torchvision:resnet50@IMAGENET1K_V1", Zoo())
    expected = Preprocessing(resize=256, crop=(224, 224))
    assert preprocessing_for(make_config({}), [resnet]) == expected
    assert preprocessing_for(make_config({}), [find_weights(Path("not_read.pth"), "torchvision:resnet18")]) == expected
    (later,) = find_models("torchvision:resnet50", Zoo())
    assert preprocessing_for(make_config({}), [later]) == Preprocessing(resize=232, crop=(224, 224))
    with pytest.raises(RequestError, match=r"'torchvision:resnet50@IMAGENET1K_V1' .* 256 .*:resnet50' .* 232 "):
        preprocessing_for(make_config({}), [resnet, later])
    assert preprocessing_for(make_config({"resize": 256}), [resnet, later]) == expected


def test_an_interpolation_of_nothing_is_refused() -> None:
    for options in ({}, {"crop": 20}):
        with pytest.raises(
            RequestError, match=r"^--interpolation bicubic says how images are resized, and nothing says"
        ):
            chosen(None, interpolation="bicubic", **options)


def test_a_crop_larger_than_its_images_is_refused() -> None:
    with pytest.raises(RequestError, match=r"^a crop to 224x224 pixels does not fit into images .* resized to 200"):
        chosen(SHORT, resize=200)


def test_folders_are_framed_and_digits_are_not(tmp_path: Path) -> None:
    config = make_config({"dataset": f"folder:{paint(tmp_path)}"})
    card = Preprocessing(resize=12, crop=(10, 8))
    framed = open_images(config, [source("small", card)])
    assert framed.preprocessing == card
    assert {framed.read(index).shape for index in range(2)} == {(3, 10, 8)}
    as_they_are = open_images(config, [source("silent", None)])
    assert [as_they_are.read(index).shape[1:] for index in range(2)] == [(20, 30), (30, 20)]
    digits = open_images(make_config({}), [source("small", card)])
    assert digits.preprocessing == AS_THEY_ARE
    assert digits.read(0).shape == (3, 8, 8)


@pytest.mark.parametrize("options", [{"resize": 8}, {"crop": 8}, {"image_list": Path("list.txt")}], ids=str)
@pytest.mark.parametrize("dataset", ["digits", "cifar10"])
def test_datasets_of_one_size_take_no_options(dataset: str, options: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=rf"^resize, crop, .* are for .* and {dataset} is fixed: leave"):
        open_images(make_config({"dataset": dataset, **options}), [])


# Which class is which output


def named(name: str, class_names: list[str] | None) -> ZooModel:
    weights = {"file": "w.safetensors", "sha256": 64 * "0"}
    stated = {"name": name, "weights": weights, "licence": "CC0-1.0", "classes": 2}
    return ZooModel(Entry(Card.model_validate({**NATURAL, **stated, "class_names": class_names}), Path()))


def test_a_file_decides_then_a_card_then_the_folders_names(tmp_path: Path) -> None:
    images = {"dataset": f"folder:{paint(tmp_path / 'images')}", "crop": 16}
    (tmp_path / "classes.txt").write_text("class-1\nother\nclass-0")
    carded, plain = named("carded", ["class-1", "class-0"]), named("plain", None)
    assert open_images(make_config(images), [plain]).labels == [0, 1]
    assert open_images(make_config(images), [plain, carded, carded]).labels == [1, 0]
    stated = open_images(make_config({**images, "classes": tmp_path / "classes.txt"}), [carded])
    assert stated.labels == [2, 0]
    assert stated.class_names == ("class-1", "other", "class-0")


def test_cards_whose_classes_are_in_other_orders_are_named(tmp_path: Path) -> None:
    config = make_config({"dataset": f"folder:{paint(tmp_path)}", "crop": 16})
    cards = [named("one", ["class-1", "class-0"]), named("two", ["class-0", "class-1"])]
    with pytest.raises(
        RequestError, match=r"^the card of model 'one' and the card of model 'two' have classes in diff"
    ):
        open_images(config, cards)


def test_the_classes_of_digits_are_known_whatever_a_card_says() -> None:
    assert open_images(make_config({}), [named("carded", ["class-1", "class-0"])]).class_names == tuple("0123456789")


@pytest.mark.parametrize("names", [["ant"], ["ant", "ant"], ["ant", "bee", "cat"]])
def test_a_card_names_every_class_once(names: list[str]) -> None:
    with pytest.raises(ValueError, match="class_names must be 2 different names"):
        named("card", names)
