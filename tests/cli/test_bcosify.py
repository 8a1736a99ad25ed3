"""``bcosify``: cards that every verb takes, and what is refused before anything is written."""

from pathlib import Path

import pytest
import torch

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.model_zoo.bcosify.bcosify import bcosify
from robustbench_bcos.model_zoo.cards import Zoo
from robustbench_bcos.model_zoo.models import load_model
from robustbench_bcos.model_zoo.sources.zoo import ZooModel
from tests.cli.command_line import refusal, succeed

NETS = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.GELU(), nn.Flatten(), nn.Linear(6 * 36, 10))
"""


def test_a_converted_model_is_one_like_any_other(tiny_zoo: Path, here: Path) -> None:
    out = succeed("bcosify", "tiny-natural", "--zoo", tiny_zoo, "--limit", "40", "--out", "made")
    assert "RawBcosConv2d" in out
    assert "bias, running_mean" in out
    assert "logits are the source's on 32 images" in out
    assert "accuracy on 40 images of digits, with B = 1, without biases" in out
    card = Zoo([Path("made")])["bcosified-tiny-natural"].card
    assert card.bcosified is not None
    assert (card.bcosified.source, card.bcosified.b, card.bcosified.weights) == ("tiny-natural", 2, "raw")
    assert (card.family, card.encoding.kind, card.clean_accuracy) == ("bcos", "add_inverse", None)
    assert "[bcosified]" in Path("made/bcosified-tiny-natural.toml").read_text(encoding="utf-8")
    assert 'weights = "raw"' in Path("made/bcosified-tiny-natural.toml").read_text(encoding="utf-8")
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    made = bcosify(load_model("tiny-natural", zoo=tiny_zoo), images=images)
    assert torch.equal(load_model("made")(images), made(images))
    out = succeed("explain", "--model", "made", "--dataset", "digits", "--images", "0", "--out", "maps")
    assert "bcosified-tiny-natural · dynamic_weights" in out
    options = ["--evidence", "off", "--no-figures", "--norm", "l2", "--eps", "0.1", "--steps", "2", "--limit", "4"]
    succeed("run", "--model", "made", *options, "--out", "run")


def test_with_b_1_and_biases_it_is_the_source(tiny_zoo: Path, here: Path) -> None:
    options = ["--zoo", tiny_zoo, "--limit", "8", "--b", "1", "--biases", "--name", "same", "--out", "made"]
    succeed("bcosify", "tiny-natural", *options)
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(load_model("made")(images), load_model("tiny-natural", zoo=tiny_zoo)(images))


def test_a_card_of_ones_own_code_runs_it_only_where_it_is_named(here: Path) -> None:
    Path("nets_of_mine.py").write_text(NETS, encoding="utf-8")
    stated = ["--encoding", "normalize:0.5/0.5", "--dataset", "digits", "--limit", "8", "--out", "made"]
    succeed("bcosify", "nets_of_mine:net", "--name", "mine", *stated)
    explain = ["explain", "--model", "made", "--dataset", "digits", "--images", "0", "--out"]
    assert "a card runs no code: give it with --plugin nets_of_mine.py" in refusal(*explain, "first")
    succeed(*explain, "second", "--plugin", "nets_of_mine.py")


def test_raw_weights_do_not_load_into_layers_that_normalise_theirs(tiny_zoo: Path, here: Path) -> None:
    succeed("bcosify", "tiny-natural", "--zoo", tiny_zoo, "--limit", "8", "--out", "made")
    (entry,) = Zoo([Path("made")]).matching("made")
    plain = entry.card.model_copy(update={"bcosified": None, "architecture": "bcos_resnet8"})
    with pytest.raises(RequestError, match="raw ones of a B-cosified network"):
        ZooModel(entry._replace(card=plain)).load()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digits-natural", "--b", "0.5"], "--b 0.5 must be at least 1"),
        (["digits-nat"], "did you mean 'digits-natural'"),
        (["digits-*"], "names 9 models"),
        (["digits-bcos-b2"], "has B-cos layers already"),
        (["digits-natural", "--name", "../x"], "must be letters and digits"),
        (["nets_of_mine:net", "--dataset", "digits"], "encoding is needed"),
        (["torch.nn:Identity"], "--dataset NAME"),
        (["digits-natural", "--dataset", "folder:nowhere"], "nowhere"),
        (["onnx:nowhere.onnx"], "nowhere.onnx"),
    ],
)
def test_what_cannot_be_done_is_refused(arguments: list[str], message: str, here: Path) -> None:
    Path("nets_of_mine.py").write_text(NETS, encoding="utf-8")
    assert message in refusal("bcosify", *arguments, "--limit", "4", "--out", "made")
    assert not Path("made").exists()


def test_nothing_is_overwritten(tiny_zoo: Path, here: Path) -> None:
    command = ["bcosify", "tiny-natural", "--zoo", tiny_zoo, "--limit", "4", "--out", "made"]
    succeed(*command)
    assert "is there already" in refusal(*command)
    Path("empty").mkdir()
    assert "is a folder without cards" in refusal("run", "--model", "empty", "--limit", "2")
