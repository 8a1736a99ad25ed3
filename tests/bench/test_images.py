"""In what size a run's images are attacked: what the options say, what the models' cards say, and who is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from robustbench_bcos.bench.config import make_config
from robustbench_bcos.bench.images import open_images, preprocessing_for
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.data.preprocessing import AS_THEY_ARE, Preprocessing
from robustbench_bcos.model_zoo.cards import Card, Entry, Zoo
from robustbench_bcos.model_zoo.models import CheckpointModel, ZooModel, find_models, find_weights
from tests.bench.tiny_zoo import NATURAL

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
    assert preprocessing_for(make_config({}), [CheckpointModel(Path("w.pth"), "resnet20")]) == AS_THEY_ARE


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
    with pytest.raises(RequestError, match=rf"^resize, crop and image_list are for .* and {dataset} is fixed: leave"):
        open_images(make_config({"dataset": dataset, **options}), [])
