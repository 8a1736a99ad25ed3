"""Pictures of all sizes, from the command to the numbers: ImageNet's folders, folders of one's own, single photos."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tomli_w
import torch
from PIL import Image
from torch import nn

from robustbench_bcos.bench.configured import make_config
from robustbench_bcos.cli.chosen import from_files
from robustbench_bcos.data.datasets.folder import Folder
from robustbench_bcos.data.preprocessing import Preprocessing
from robustbench_bcos.model_zoo.architectures import initialise
from robustbench_bcos.model_zoo.cards import ModelSpec, Zoo
from robustbench_bcos.model_zoo.checkpoints.write import write_weights
from robustbench_bcos.model_zoo.classifier import build_classifier
from robustbench_bcos.model_zoo.models import find_models, own_model
from tests.cli.command_line import refusal, succeed
from tests.data.imagenet_tree import all_wnids, jpeg, write_classes
from tests.drafts import NATURAL

NETS = '''
import torch

seen = []

class Thousand(torch.nn.Module):
    """A thousand logits, read off the first pixels of images of any size, which it remembers the shapes of."""

    def forward(self, images):
        seen.append(tuple(images.shape[1:]))
        return images.flatten(1)[:, :10].repeat(1, 100)
'''
QUICK = "--norm l2 --eps 0.5 --steps 2 --evidence off --no-figures".split()
CARD: dict[str, Any] = NATURAL | {"dataset": "imagenet", "classes": 1000, "image_size": [16, 16], "resize": 18}


@pytest.fixture(autouse=True)
def own_code(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module in the working folder, which is forgotten afterwards."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "sized_nets", raising=False)
    (here / "sized_nets.py").write_text(NETS, encoding="utf-8")


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("imagenet")
    write_classes(root / "val", all_wnids())
    return root


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two networks for 1,000 classes, with random weights, whose cards differ in what they resize to."""
    folder = tmp_path_factory.mktemp("sized-zoo")
    for seed, (name, resize) in enumerate([("short", 18), ("long", 20)]):
        card = CARD | {"name": name, "resize": resize}
        classifier = build_classifier(ModelSpec.model_validate(card))
        with torch.no_grad():
            initialise(classifier.network, torch.Generator().manual_seed(seed))
        file = folder / f"{name}.safetensors"
        weights = {"file": file.name, "sha256": write_weights(classifier.network, file)}
        text = tomli_w.dumps({**card, "weights": weights, "licence": "CC0-1.0"})
        (folder / f"{name}.toml").write_text(text, encoding="utf-8")
    return folder


def identity(run: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(run.strip()).parent / "run.json").read_text(encoding="utf-8"))["identity"]
    return found


def test_what_is_attacked_is_what_the_model_sees(imagenet: Path) -> None:
    model = ["--dataset", "imagenet", "--data-dir", imagenet, "--model", "sized_nets:Thousand", "--limit", 20]
    csv = succeed("run", *QUICK, *model, "--resize", 18, "--crop", 16, "--quiet")
    assert set(sys.modules["sized_nets"].seen) == {(3, 16, 16)}
    row = pd.read_csv(csv.strip()).iloc[0]
    assert (row["dataset"], row["images"]) == ("imagenet", 20)
    said = "shorter side resized to 18 pixels (bilinear), middle 16x16 cropped out"
    assert identity(csv)["preprocessing"] == said
    assert identity(csv)["classes"] == 1000


def test_cards_say_how_images_are_framed(imagenet: Path, zoo: Path) -> None:
    command = ["run", *QUICK, "--dataset", "imagenet", "--data-dir", imagenet, "--zoo", zoo, "--limit", 5]
    csv = succeed(*command, "--model", "short", "--quiet")
    said = "shorter side resized to 18 pixels (bilinear), middle 16x16 cropped out"
    assert identity(csv)["preprocessing"] == said
    printed = succeed(*command, "--model", "short", "--dry-run")
    assert f"5 images of imagenet ({said}), subset {identity(csv)['subset'][:12]}" in " ".join(printed.split())
    refused = refusal(*command, "--model", "short,long")
    assert "'short' was made for images with shorter side resized to 18" in refused
    assert "'long' for images with shorter side resized to 20" in refused
    assert refused.endswith(": choose for both with --resize, --crop and --interpolation, or run them apart")
    both = succeed(*command, "--model", "short,long", "--resize", 18, "--quiet")
    assert identity(both)["subset"] == identity(csv)["subset"]


def test_a_run_is_not_continued_with_other_preprocessing(imagenet: Path, zoo: Path) -> None:
    command = ["run", *QUICK, "--dataset", "imagenet", "--data-dir", imagenet, "--zoo", zoo, "--limit", 5]
    command += ["--model", "short", "--out", "here"]
    succeed(*command)
    said = refusal(*command, "--resize", 19)
    assert said.startswith("run here belongs to another configuration (other preprocessing): ")


def test_a_list_of_images_is_all_of_a_run(imagenet: Path, zoo: Path, here: Path) -> None:
    (here / "list.txt").write_text("n02102040/ILSVRC2012_val_00000218.JPEG\nILSVRC2012_val_00000001.JPEG\n", "utf-8")
    command = ["run", *QUICK, "--dataset", "imagenet", "--data-dir", imagenet, "--zoo", zoo, "--model", "short"]
    csv = succeed(*command, "--image-list", "list.txt", "--quiet")
    assert identity(csv)["images"] == 2
    (here / "list.txt").write_text("n02102040/ILSVRC2012_val_00000219.JPEG\n", "utf-8")
    assert refusal(*command, "--image-list", "list.txt").startswith(
        "line 1 of image_list list.txt names 'n02102040/ILSVRC2012_val_00000219.JPEG', which is not among the 1000 "
    )
    assert refusal(*command, "--image-list", "no.txt").startswith("image_list no.txt cannot be read (No such file")


def test_a_folder_of_ones_own_may_hold_images_of_all_sizes(here: Path) -> None:
    write_classes(here / "own", ["cat", "dog"] + [f"class-{number}" for number in range(998)])
    model = ["--dataset", "folder:own", "--model", "sized_nets:Thousand", "--limit", 20]
    assert refusal("run", *QUICK, *model).endswith("which resize and crop give them")
    csv = succeed("run", *QUICK, *model, "--crop", 16, "--quiet")
    assert identity(csv)["preprocessing"] == "middle 16x16 cropped out"


@pytest.mark.parametrize(
    ("added", "said"),
    [
        (
            ["--crop", "4"],
            "resize, crop, interpolation and image_list are for image files of any size, and digits",
        ),
        (["--resize", "0"], "resize: input should be greater than or equal to 1, got 0"),
        (["--crop", "-3"], "crop: input should be greater than or equal to 1, got -3"),
        (["--interpolation", "bicubbic"], "unknown interpolation 'bicubbic': did you mean 'bicubic'?"),
        (
            ["--interpolation", "bicubic"],
            "resize, crop, interpolation and image_list are for image files of any size, and digits",
        ),
        (["--dataset", "coco"], "unknown dataset 'coco': choose from "),
        (["--dataset", "imagenett"], "unknown dataset 'imagenett': did you mean 'imagenet'?"),
        (["--dataset", "imagenet"], "dataset imagenet needs data_dir: name the folder that holds val"),
    ],
)
def test_a_request_that_cannot_be_meant_is_refused(added: list[str], said: str) -> None:
    assert said in refusal("run", *QUICK, "--model", "digits-natural", *added)


# Explanations


def test_photos_are_framed_as_the_card_says(zoo: Path, here: Path) -> None:
    (here / "photos/test/one").mkdir(parents=True)
    for name, size in [("tall", (40, 27)), ("wide", (24, 31))]:
        (here / f"photos/test/one/{name}.jpeg").write_bytes(jpeg(3, size=size))
    files = [here / f"photos/test/one/{name}.jpeg" for name in ("tall", "wide")]
    succeed("explain", *files, "--zoo", zoo, "--model", "short", "--out", "by-card")
    with np.load("by-card/maps.npz") as maps:
        shown = torch.from_numpy(maps["images"])
    folder = Folder(here / "photos", "test", preprocessing=Preprocessing(resize=18, crop=(16, 16)))
    assert torch.equal(shown, torch.stack([folder.read(0), folder.read(1)]))
    said = refusal("explain", *files, "--zoo", zoo, "--model", "short", "--crop", 12, "--out", "by-option")
    assert "has 12x12 pixels and 16x16 are needed" in said
    assert "--image-list names images of a dataset" in refusal(
        "explain", *files, "--zoo", zoo, "--model", "short", "--image-list", "list.txt"
    )


def test_photos_are_explained_by_the_names_of_the_models_classes(zoo: Path, here: Path) -> None:
    (here / "photo.jpeg").write_bytes(jpeg(3, size=(40, 27)))
    printed = succeed("explain", "photo.jpeg", "--zoo", zoo, "--model", "short", "--target", "tench", "--out", "named")
    assert "short · input_x_gradient of class tench" in printed
    with np.load("named/maps.npz") as maps:
        assert maps["targets"].tolist() == [0]


def test_photos_are_framed_and_named_as_a_librarys_models_have_them(here: Path) -> None:
    (here / "photo.jpeg").write_bytes(jpeg(3, size=(300, 400)))
    (source,) = find_models("torchvision:resnet50@IMAGENET1K_V1", Zoo())
    # Its weights are not here; whatever gives a thousand logits does.
    model = own_model("thousand", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 1000)))
    chosen = from_files(make_config({}), source, model, [here / "photo.jpeg"], attacked=False)
    assert chosen.images.shape == (1, 3, 224, 224)
    assert chosen.class_names[:2] == ["tench", "goldfish"]


def test_frames_are_framed_as_the_card_says(zoo: Path, here: Path) -> None:
    first, second = (Image.fromarray(np.full((30, 22, 3), level, dtype=np.uint8)) for level in (40, 90))
    first.save("moving.gif", save_all=True, append_images=[second])
    succeed("explain", "moving.gif", "--zoo", zoo, "--model", "short", "--out", "moving")
    with np.load("moving/maps.npz") as maps:
        assert maps["images"].shape == (2, 3, 16, 16)


def test_images_of_imagenet_are_explained_by_the_names_of_their_classes(imagenet: Path, zoo: Path) -> None:
    place = ["--dataset", "imagenet", "--data-dir", imagenet, "--zoo", zoo, "--model", "short"]
    label = all_wnids().index("n02093428")
    printed = succeed("explain", *place, "--images", f"0,{label}", "--target", "tench", "--out", "shown")
    assert "short · input_x_gradient of class tench" in printed
    assert "American Staffordshire terrier" in " ".join(printed.split())
    assert Path("shown/panel_01.png").is_file()
