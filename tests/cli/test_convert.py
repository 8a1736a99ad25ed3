"""``convert``: what is written is the model that was read, its card says what is known, and nothing is overwritten."""

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dill
import pytest
import torch
from robustness.attacker import AttackerModel
from safetensors.torch import load_file
from torch import Tensor, nn

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.model_zoo.architectures import BCOS_PREFIX, build_architecture
from robustbench_bcos.model_zoo.cards import Card, EncodingSpec, Zoo
from robustbench_bcos.model_zoo.models import CheckpointModel, load_model
from tests.cli.command_line import call, refusal, succeed

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
STATED = ["--licence", "CC0-1.0", "--dataset", "digits", "--out", "zoo"]


class Digits:
    mean, std = torch.tensor(MEAN), torch.tensor(STD)


def network(architecture: str, seed: int = 0, **arguments: Any) -> nn.Module:
    channels = 6 if architecture.startswith(BCOS_PREFIX) else 3
    made = build_architecture(architecture, in_channels=channels, classes=10, arguments=arguments)
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in made.state_dict().items():
        if tensor.is_floating_point():
            values = torch.randn(tensor.shape, generator=generator)
            tensor.copy_(values.abs() + 0.1 if name.endswith("running_var") else values)
    return made.eval()


def bare(made: nn.Module) -> dict[str, Any]:
    return made.state_dict()


def lightning(made: nn.Module) -> dict[str, Any]:
    average = torch.optim.swa_utils.AveragedModel(made, use_buffers=True)
    for tensor in average.module.parameters():
        tensor.data.mul_(0.5)
    state = {f"model.{name}": tensor for name, tensor in made.state_dict().items()}
    state |= {f"ema.{name}": tensor for name, tensor in average.state_dict().items()}
    return {"state_dict": state, "epoch": 1, "pytorch-lightning_version": "1.9.5"}


def madry(made: nn.Module) -> dict[str, Any]:
    return {"model": nn.DataParallel(AttackerModel(made, Digits)).state_dict(), "epoch": 1}


def robustbench(made: nn.Module) -> dict[str, Any]:
    return {"state_dict": {f"module.{name}": tensor for name, tensor in made.state_dict().items()}}


LAYOUTS: dict[str, tuple[Callable[[nn.Module], dict[str, Any]], str, list[str]]] = {
    "state_dict": (bare, "bcos_resnet8", []),
    "b": (bare, "bcos_resnet8", ["--argument", "b=1.5"]),
    "normalize": (bare, "resnet8", ["--encoding", "normalize:0.1,0.2,0.3/0.4,0.5,0.6"]),
    "lightning": (lightning, "bcos_resnet8", []),
    "ema": (lightning, "bcos_resnet8", ["--ema"]),
    "madry": (madry, "resnet8", []),
    "robustbench": (robustbench, "resnet8", []),
}
"""What the file is like, what it was made with, and what has to be said."""


def saved(layout: str, file: str = "net.pt") -> list[str]:
    """The file, and the options that describe it."""
    made, architecture, options = LAYOUTS[layout]
    arguments = {"b": 1.5} if layout == "b" else {}
    torch.save(made(network(architecture, **arguments)), file, pickle_module=dill)
    return ["--architecture", architecture, *options]


def images() -> Tensor:
    return torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(3))


def card(name: str = "net") -> Card:
    return Zoo([Path("zoo")])[name].card


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_converted_model_gives_the_logits_of_its_checkpoint(layout: str) -> None:
    options = saved(layout)
    succeed("convert", "net.pt", *options, *STATED)
    stated = dict(zip(options[::2], options[1::2], strict=False))
    given = {"b": 1.5} if layout == "b" else {}
    read = CheckpointModel(
        file=Path("net.pt"),
        architecture=stated["--architecture"],
        encoding=stated.get("--encoding"),
        arguments=given,
        ema="--ema" in options,
    )
    assert torch.equal(load_model("net", zoo=Path("zoo"))(images()), read.load().classifier(images()))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_run_on_the_converted_model_has_the_rows_of_one_on_the_checkpoint(layout: str) -> None:
    options = saved(layout)
    succeed("convert", "net.pt", *options, *STATED)
    run = "--limit 12 --steps 3 --norm l2 --eps 0.5 --no-figures --evidence off --loss ce --json".split()
    rows = [
        succeed("run", "--weights", "net.pt", *options, *run, "--out", "read"),
        succeed("run", "--zoo", "zoo", "--model", "net", *run, "--out", "converted"),
    ]
    told = ("clean_correct", "robust_correct", "mean_perturbation", "parameters")
    first, second = ([record[key] for record in json.loads(row)["records"] for key in told] for row in rows)
    assert first == second


def test_the_average_is_another_model_than_the_last_weights() -> None:
    options = saved("lightning")
    succeed("convert", "net.pt", *options, *STATED)
    succeed("convert", "net.pt", *options, "--ema", *STATED, "--name", "average")
    last, average = (load_model(name, zoo=Path("zoo"))(images()) for name in ("net", "average"))
    assert not torch.allclose(last, average)


def test_the_card_says_what_was_read_and_what_was_stated_and_no_more() -> None:
    options = saved("b")
    facts = ["--training", "adversarial linf 8/255", "--loss", "bce_off_label", "--reference", "mine, 2025"]
    succeed("convert", "net.pt", *options, *STATED, *facts, "--name", "mine-1")
    content = tomllib.loads(Path("zoo/mine-1.toml").read_text(encoding="utf-8"))
    digest = content["weights"].pop("sha256")
    assert len(digest) == 64
    assert content == {
        "name": "mine-1",
        "family": "bcos",
        "architecture": "bcos_resnet8",
        "arguments": {"b": 1.5, "max_out": 1, "norm": "batch-uncentred", "norm_affine": "no-bias"},
        "dataset": "digits",
        "classes": 10,
        "image_size": [8, 8],
        "encoding": {"kind": "add_inverse"},
        "loss": "bce_off_label",
        "training": {"kind": "adversarial", "norm": "linf", "eps": "8/255"},
        "weights": {"file": "mine-1.safetensors"},
        "reference": "mine, 2025",
        "licence": "CC0-1.0",
    }


def test_what_nobody_stated_is_unknown() -> None:
    succeed("convert", "net.pt", *saved("state_dict"), "--licence", "unknown", "--image-size", "40x32", "--out", "zoo")
    made = card()
    assert (made.dataset, str(made.training), made.licence, made.reference) == ("unknown", "unknown", "unknown", "")
    assert (made.image_size, made.loss, made.clean_accuracy) == ((40, 32), "bce", None)


def test_the_normaliser_of_a_madry_file_is_on_the_card() -> None:
    succeed("convert", "net.pt", *saved("madry"), *STATED)
    assert card().encoding == EncodingSpec(kind="normalize", mean=MEAN, std=STD)
    assert card().loss == "ce"


def test_what_was_inferred_is_printed() -> None:
    out = succeed("convert", "net.pt", *saved("madry"), *STATED)
    assert out.splitlines() == [
        "net.pt: layout madry, 56 tensors, names without 'module.model.', 60 others left out",
        "architecture resnet8, 10 classes, arguments norm=batch, norm_affine=full",
        f"encoding normalize, mean {list(MEAN)}, std {list(STD)}; loss ce",
        "Written to zoo: net.safetensors, net.toml",
        "Attack it: run --zoo zoo --model net",
    ]


def test_a_name_is_made_of_the_files() -> None:
    options = saved("state_dict", "epoch=3-val_acc1=0.9.ckpt")
    succeed("convert", "epoch=3-val_acc1=0.9.ckpt", *options, *STATED)
    assert sorted(file.name for file in Path("zoo").iterdir()) == [
        "epoch-3-val_acc1-0.9.safetensors",
        "epoch-3-val_acc1-0.9.toml",
    ]


def test_half_precision_rounds_weights_and_nothing_else() -> None:
    options = saved("state_dict")
    succeed("convert", "net.pt", *options, *STATED)
    succeed("convert", "net.pt", *options, *STATED, "--half", "--name", "half")
    whole, half = load_file("zoo/net.safetensors"), load_file("zoo/half.safetensors")
    assert Path("zoo/half.safetensors").stat().st_size < 0.6 * Path("zoo/net.safetensors").stat().st_size
    for name, tensor in whole.items():
        assert torch.equal(half[name], tensor.half() if tensor.is_floating_point() else tensor)
    loaded = load_model("half", zoo=Path("zoo"))
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    torch.testing.assert_close(loaded(images()), load_model("net", zoo=Path("zoo"))(images()), rtol=0.1, atol=0.1)


def test_what_half_precision_cannot_hold_is_refused_before_anything_is_written(here: Path) -> None:
    options = saved("state_dict")
    state = torch.load("net.pt")
    state["bn1.running_var"][0] = 1e6
    torch.save(state, "net.pt")
    said = refusal("convert", "net.pt", *options, *STATED, "--half")
    assert said == (
        "weights net.pt: tensor 'bn1.running_var' holds 1e+06, and half precision ends at 65504: leave --half out"
    )
    assert not (here / "zoo").exists()


@pytest.mark.parametrize("there", ["net.safetensors", "net.toml"])
def test_nothing_is_overwritten(there: str, here: Path) -> None:
    options = saved("state_dict")
    (here / "zoo").mkdir()
    (here / "zoo" / there).write_text("mine")
    said = refusal("convert", "net.pt", *options, *STATED)
    assert said == f"zoo/{there} is there already: choose another --name or --out, or remove it"
    assert {file.name: file.read_text() for file in (here / "zoo").iterdir()} == {there: "mine"}


@pytest.mark.parametrize(
    ("added", "said"),
    [
        (["--name", "../mine"], "--name '../mine' must be letters and digits"),
        (["--name", "a b"], "--name 'a b' must be letters and digits"),
        (["--training", "adversarial"], "--training 'adversarial' must be natural, unknown, or like"),
        (["--training", "adversarial 2 0.5"], "the card: training.norm: string should match pattern"),
        (["--loss", "mse"], "the card: loss: input should be 'ce', 'bce' or 'bce_off_label', got 'mse'"),
        (["--image-size", "8x"], "--image-size 8x must be height and width in pixels: 224, or 224x160"),
        (["--image-size", "0"], "--image-size 0 must be height and width in pixels"),
        (["--dataset", "mine"], "--image-size is needed, because checkpoints do not say it"),
        (["--architecture", "resnet8"], "use --architecture bcos_resnet8, which has exactly these tensors"),
        (["--architecture", "resnt8"], "unknown architecture 'resnt8': did you mean"),
        (["--argument", "norm=none"], "bcos_resnet8 has these tensors with other arguments: leave --argument out"),
        (["--encoding", "none"], "--encoding none gives 3 channels and the weights net.pt take 6"),
        (["--encoding", "normalize"], "--encoding normalize: gives no mean and deviation"),
        (["--ema"], "weights net.pt have no moving average of the weights: leave out ema (--ema)"),
        (["--out", "net.pt/zoo"], "net.pt/zoo cannot be written"),
    ],
)
def test_what_cannot_be_converted_is_told_and_nothing_is_written(added: list[str], said: str, here: Path) -> None:
    options = saved("state_dict")
    assert said in refusal("convert", "net.pt", *options, *STATED, *added)
    assert [file.name for file in here.iterdir()] == ["net.pt"]


def test_a_checkpoint_without_its_architecture_is_told_which_fit(here: Path) -> None:
    saved("lightning")
    said = refusal("convert", "net.pt", *STATED)
    assert said == (
        "weights net.pt need the architecture they were made with: use --architecture bcos_resnet8, which has exactly "
        "these tensors"
    )
    assert not (here / "zoo").exists()


@pytest.mark.parametrize("missing", ["--licence", "--out"])
def test_licence_and_folder_have_to_be_stated(missing: str) -> None:
    options = [*saved("state_dict"), *STATED]
    at = options.index(missing)
    outcome = call("convert", "net.pt", *options[:at], *options[at + 2 :])
    assert outcome.code == 2
    assert missing in outcome.err


def test_a_python_caller_gets_the_average_too() -> None:
    saved("lightning")
    last, average = (load_model("net.pt", architecture="bcos_resnet8", ema=ema)(images()) for ema in (False, True))
    assert not torch.allclose(last, average)
    with pytest.raises(RequestError, match=r"^weights net\.pt need the architecture"):
        load_model("net.pt", ema=True)
