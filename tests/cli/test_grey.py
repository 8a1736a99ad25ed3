"""Models that take grey images: from IDX files, from grey pictures, from weights, and from Python."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import robustbench_bcos as rb
from tests.cli.command_line import refusal, succeed
from tests.data.test_idx import write

NETS = """
import torch

class Grey(torch.nn.Module):
    '''Three logits, read off the first row of images of one channel.'''

    def __init__(self):
        super().__init__()
        self.convolution = torch.nn.Conv2d(1, 2, 1)
        torch.nn.init.constant_(self.convolution.weight, 2.0)

    def forward(self, images):
        return self.convolution(images)[:, 0, 0, :3]
"""
LEVELS = np.random.default_rng(0).integers(0, 256, (6, 5, 4), dtype=np.uint8)
QUICK = "--norm linf --eps 0.2 --steps 2 --model grey_nets:Grey --skip-model-checks".split()


@pytest.fixture(autouse=True)
def own_code(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "grey_nets", raising=False)
    (here / "grey_nets.py").write_text(NETS, encoding="utf-8")


def test_idx_files_and_the_same_images_as_pictures_give_the_same_numbers(here: Path) -> None:
    write(here / "idx", levels=LEVELS)
    for number, label in enumerate([2, 0, 1, 1, 0, 2]):
        (here / f"png/{label}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(LEVELS[number]).save(here / f"png/{label}/{number}.png")
    succeed("run", "--dataset", "idx:idx", *QUICK, "--no-figures", "--explained", 2, "--out", "one")
    succeed("run", "--dataset", "folder:png", "--channels", 1, *QUICK, "--no-figures", "--out", "two")
    one, two = (pd.read_csv(here / run / "results.csv") for run in ("one", "two"))
    assert one["robust_correct"].tolist() == two["robust_correct"].tolist()
    assert one["clean_correct"].tolist() == two["clean_correct"].tolist()
    assert one["explanation_cosine_true_attack"].notna().all()


def test_a_model_that_takes_the_other_number_of_channels_is_refused_with_the_remedy(here: Path) -> None:
    (here / "png/0").mkdir(parents=True)
    Image.fromarray(LEVELS[0]).save(here / "png/0/0.png")
    said = refusal("run", "--dataset", "folder:png", *QUICK)
    assert said.endswith("it takes images of 1 channel: give channels 1")
    write(here / "idx", levels=LEVELS.repeat(2, axis=1)[:, :8].repeat(2, axis=2))
    said = refusal("run", "--dataset", "idx:idx", "--model", "digits-natural", *"--norm linf --eps 0.2".split())
    assert said.endswith("it takes images of 3 channels: give channels 3")


def test_files_are_explained_by_a_model_that_takes_one_channel(here: Path) -> None:
    Image.fromarray(LEVELS[0]).save(here / "a.png")
    succeed("explain", "a.png", "--model", "grey_nets:Grey", "--channels", 1, "--out", "shown")
    with np.load(here / "shown/maps.npz") as maps:
        np.testing.assert_array_equal(maps["images"], LEVELS[None, :1].astype(np.float32) / 255)


def test_python_takes_grey_images(here: Path) -> None:
    sys.path.insert(0, str(here))
    from grey_nets import Grey  # type: ignore[import-not-found] # made above

    images = torch.from_numpy(LEVELS.astype(np.float32) / 255)[:, None]
    labels = images[:, 0, 0, :3].argmax(dim=1)
    rows = rb.evaluate(Grey(), images, labels, norm="linf", eps=0.5, steps=3, channels=1)
    assert rows["clean_accuracy"].tolist() == [1.0]
    assert rows["robust_accuracy"].tolist() < [1.0]


@pytest.mark.parametrize(("architecture", "channels"), [("resnet8", 1), ("bcos_resnet8", 2)])
def test_weights_of_networks_for_grey_images_are_read(architecture: str, channels: int, tmp_path: Path) -> None:
    from robustbench_bcos.model_zoo.architectures import build_architecture

    network = build_architecture(architecture, in_channels=channels, classes=3, arguments={})
    torch.save(network.state_dict(), tmp_path / "grey.pth")
    classifier = rb.load_model(tmp_path / "grey.pth", architecture=architecture)
    assert classifier(torch.rand(2, 1, 8, 8)).shape == (2, 3)
