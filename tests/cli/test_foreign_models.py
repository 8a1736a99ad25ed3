"""Models that are nobody's card, from the command line to the row of results."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from PIL import Image

from tests.cli.command_line import refusal, succeed

ARCHITECTURE = "torchvision:squeezenet1_1"
NETS = """
import torch
import robustbench_bcos as rb

class Bytes(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.network = rb.load_model("digits-natural")

    def forward(self, images):
        return self.network(images / 255)

def soft():
    return torch.nn.Sequential(rb.load_model("digits-natural"), torch.nn.Softmax(dim=1))

def official():
    import bcos.models.resnet
    torch.manual_seed(0)
    return bcos.models.resnet.cifar10_resnet20(num_classes=10)
"""


@pytest.fixture(autouse=True)
def own_code(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(here))
    monkeypatch.delitem(__import__("sys").modules, "foreign_nets", raising=False)
    (here / "foreign_nets.py").write_text(NETS, encoding="utf-8")


@pytest.fixture
def pictures(here: Path) -> Path:
    """Two classes of two pictures, larger than any crop."""
    for label in range(2):
        (here / "pictures" / f"class-{label}").mkdir(parents=True)
        for number in range(2):
            pixels = torch.rand(300, 280, 3, generator=torch.Generator().manual_seed(2 * label + number))
            file = here / "pictures" / f"class-{label}" / f"{number}.png"
            Image.fromarray((255 * pixels).to(torch.uint8).numpy()).save(file)
    return here / "pictures"


def rows(*arguments: object) -> list[dict[str, Any]]:
    """Of a run of one step, without figures."""
    out = succeed("run", *arguments, "--steps", 1, "--no-figures", "--evidence", "off", "--quiet")
    return list(csv.DictReader(Path(out.strip()).read_text(encoding="utf-8").splitlines()))


def test_a_file_for_a_network_of_torchvision_is_attacked_in_the_size_that_torchvision_gives_it(
    here: Path, pictures: Path
) -> None:
    torch.save(torchvision.models.get_model("squeezenet1_1", num_classes=2).state_dict(), here / "mine.pth")
    (row,) = rows(
        "--weights",
        "mine.pth",
        "--architecture",
        ARCHITECTURE,
        "--eps",
        0.5,
        "--dataset",
        f"folder:{pictures}",
        "--out",
        "a",
    )
    assert (row["model"], row["architecture"], row["family"]) == ("mine", ARCHITECTURE, "conventional")
    about = json.loads((here / "a" / "run.json").read_text(encoding="utf-8"))
    assert "shorter side resized to 256 pixels (bilinear), middle 224x224 cropped out" in json.dumps(about)
    asked = ("--resize", 70, "--crop", 64, "--out", "b")
    assert rows(
        "--weights", "mine.pth", "--architecture", ARCHITECTURE, "--eps", 0.5, "--dataset", f"folder:{pictures}", *asked
    )
    assert "middle 64x64 cropped out" in (here / "b" / "run.json").read_text(encoding="utf-8")


def test_whose_classes_a_model_has_is_said(pictures: Path) -> None:
    said = refusal(
        "run", "--model", f"{ARCHITECTURE}@none", "--eps", 0.5, "--dataset", f"folder:{pictures}", "--dry-run"
    )
    assert "gives outputs of shape (2, 1000) for 2 images, and folder:" in said
    assert said.endswith("has 2 classes: it must give one logit per image and class (1000 are ImageNet's)")


def test_a_network_that_takes_one_size_asks_for_it(pictures: Path, here: Path) -> None:
    torch.save(timm.create_model("test_vit", num_classes=2).state_dict(), here / "vit.pth")
    arguments = (
        "--weights",
        "vit.pth",
        "--architecture",
        "timm:test_vit",
        "--eps",
        0.5,
        "--dataset",
        f"folder:{pictures}",
    )
    said = refusal("run", *arguments, "--resize", 100, "--crop", 96, "--argument", "dynamic_img_size=false")
    assert said.startswith("model 'vit' fails on images of shape (3, 96, 96) (")
    assert said.endswith("): choose models that fit, or another size of images with --resize and --crop")


def test_a_model_for_another_range_is_refused_with_the_encoding_that_it_needs() -> None:
    said = refusal("run", "--model", "foreign_nets:Bytes", "--limit", 64)
    assert "gets 7 of 64 images right, and 64 if it is given pixels in [0, 255]" in said
    assert ": give --encoding normalize:bytes, or correct its card, or have it attacked" in said
    stated, card = rows("--model", "foreign_nets:Bytes,digits-natural", "--encoding", "normalize:bytes", "--limit", 64)
    assert stated["clean_correct"] == card["clean_correct"] == "64"
    assert stated["robust_correct"] == card["robust_correct"]


def test_a_model_of_probabilities_is_attacked_when_it_is_asked_for_anyway() -> None:
    said = refusal("run", "--model", "foreign_nets:soft", "--limit", 20)
    assert said.startswith("model 'foreign_nets:soft' gives probabilities")
    arguments = (
        "--model",
        "foreign_nets:soft",
        "--limit",
        20,
        "--skip-model-checks",
        "--steps",
        2,
        "--no-figures",
        "--quiet",
    )
    out = succeed("run", *arguments)
    (row,) = csv.DictReader(Path(out.strip()).read_text(encoding="utf-8").splitlines())
    assert row["trust"] == "suspect"
    assert "saturated_output" in row["reasons"]


def test_a_network_of_the_official_package_is_attacked_in_rgb() -> None:
    arguments = ("--model", "foreign_nets:official", "--encoding", "add_inverse", "--loss", "bce", "--limit", 10)
    (row,) = rows(*arguments)
    assert (row["space"], row["loss"], row["architecture"]) == ("image", "bce", "BcosResNet")
    assert "6 channels" in refusal("run", "--model", "foreign_nets:official", "--limit", 10)


def test_pictures_are_explained_by_models_of_libraries(pictures: Path) -> None:
    succeed("explain", pictures / "class-0" / "0.png", "--model", f"{ARCHITECTURE}@none")
