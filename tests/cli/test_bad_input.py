"""Requests that cannot be carried out: exit status 2, one sentence that ends in a remedy, and nothing left behind."""

import pickle
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from robustbench_bcos.model_zoo.cards import Zoo
from tests.cli.command_line import refusal, succeed
from tests.cli.own_models import OWN_MODELS

SMALL = "--model tiny-natural --limit 6 --steps 2 --no-figures".split()
WHOLE = Zoo()["digits-natural"].weights_file
NETS = f"""{OWN_MODELS}
class Seven(Pixels):
    def answer(self, logits):
        return logits[:, :7]

class Maps(Pixels):
    def answer(self, logits):
        return logits[:, :, None, None]

number = 3

def nothing():
    return None

def broken():
    raise OSError("my own disk")
"""


@pytest.fixture(autouse=True)
def own_code(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module in the working folder, which is forgotten afterwards."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "own_nets", raising=False)
    (here / "own_nets.py").write_text(NETS, encoding="utf-8")


@pytest.fixture
def run(tiny_zoo: Path, here: Path) -> Callable[..., str]:
    """The refusal of a command that is fine but for what is added to it; whatever it leaves behind is an error."""

    def refused(*added: object) -> str:
        before = {
            file: file.read_bytes() for file in here.rglob("*") if file.is_file() and "__pycache__" not in str(file)
        }
        said = refusal("run", "--zoo", tiny_zoo, *SMALL, *added)
        after = {
            file: file.read_bytes() for file in here.rglob("*") if file.is_file() and "__pycache__" not in str(file)
        }
        assert after == before
        assert not (here / "runs").exists()
        return said

    return refused


def test_the_command_is_fine_before_anything_is_added_to_it(tiny_zoo: Path) -> None:
    succeed("run", "--zoo", tiny_zoo, *SMALL)


# Words and numbers


@pytest.mark.parametrize(
    ("added", "said"),
    [
        (["--norm", "l3"], "unknown norm 'l3': did you mean 'l2'?"),
        (["--loss", "margins"], "unknown loss 'margins': did you mean 'margin'?"),
        (["--attack", "pdg"], "unknown attack 'pdg': did you mean 'pgd'?"),
        (["--start", "rnadom"], "unknown start 'rnadom': did you mean 'random'?"),
        (["--select", "best_los"], "unknown select 'best_los': did you mean 'best_loss'?"),
        (["--space", "encode"], "unknown space 'encode': did you mean 'encoded'?"),
        (["--suite", "smok"], "unknown suite 'smok': did you mean 'smoke'?"),
        (["--model", "tiny-natrual"], "unknown model 'tiny-natrual': did you mean 'tiny-natural'?"),
        (["--model", "zzz*"], "unknown model 'zzz*': choose from "),
        (["--dataset", "digit"], "unknown dataset 'digit': did you mean 'digits'?"),
        (["--eps", "-1"], "must be finite and not negative: write 0.5 or 8/255"),
        (["--eps", "nan"], "must be finite and not negative: write 0.5 or 8/255"),
        (["--eps", "abc"], "eps 'abc' is not a number: write a decimal such as 0.5 or a fraction such as 8/255"),
        (["--eps", "8/0"], "eps '8/0' is not a number"),
        (["--eps", "8", "--norm", "linf"], "did you mean 8/255?"),
        (["--eps", "13.9"], "eps 13.9 for norm l2 is larger than the whole pixel range, 13.8564"),
        (["--eps", ","], "--eps is empty: give it a value"),
        (["--steps", "0"], "steps.1: input should be greater than or equal to 1, got '0'"),
        (["--steps", "x"], "input should be a valid integer, unable to parse string as an integer, got 'x'"),
        (["--restarts", "0"], "restarts.0: input should be greater than or equal to 1"),
        (["--step-size", "0"], "step_size 0 must be positive: leave it out"),
        (["--limit", "0"], "limit: input should be greater than or equal to 1, got 0"),
        (["--limit", "365"], "limit 365 must be between 1 and the 364 images of digits"),
        (["--seed", "-1"], "seed: input should be greater than or equal to 0, got -1"),
        (["--batch-size", "0"], "batch_size: input should be greater than or equal to 1, got 0"),
        (["--device", "abacus"], "unknown device 'abacus': choose from auto, cpu, cuda, cuda:1"),
        (["--device", "cuda:99"], "device cuda:99 is not available here"),
        (["--device", "meta"], "device meta is not available here"),
        (["--zoo", "nowhere"], "--zoo nowhere is not a folder: give the folder that holds card files"),
        (["--argument", "b"], "--argument 'b' must be KEY=VALUE: b=1.5, say"),
        (["--argument", "b=2"], "argument describes weights: give them too, or leave it out"),
        (["--option", "b"], "--option 'b' must be KEY=VALUE"),
        (["--encoding", "none"], "encoding describes weights, or models without a card such as my_package.nets:make"),
        (
            ["--model", "own_nets:Pixels", "--encoding", "invert"],
            "unknown encoding 'invert': did you mean 'add_inverse'?",
        ),
        (["--model", "own_nets:Pixels", "--encoding", "normalize"], "--encoding normalize: gives no mean and devia"),
        (["--explanation", "gradcamm"], "unknown explanation 'gradcamm': did you mean 'gradcam'?"),
        (["--explained", "-1"], "explained: input should be greater than or equal to 0, got -1"),
        (["--images", "0,-3"], "images '-3' is not the index of an image: give numbers from 0"),
        (["--images", "zero"], "images 'zero' is not the index of an image: give numbers from 0"),
        (["--images", "1797"], "images 1797 is not in digits: its images are numbered 0 to 363"),
        (["--images", ","], "--images is empty: give it a value"),
    ],
)
def test_a_word_or_number_that_means_nothing_is_named(added: list[str], said: str, run: Callable[..., str]) -> None:
    assert said in run(*added)


def test_the_encoded_space_is_refused_where_there_is_no_encoding(run: Callable[..., str]) -> None:
    said = run("--model", "own_nets:Pixels", "--space", "encoded")
    assert "model 'own_nets:Pixels' has no encoding that fills [0, 1]" in said
    assert "choose other models, or --space image" in said


def test_a_method_that_cannot_serve_a_model_of_the_run_is_refused(run: Callable[..., str]) -> None:
    said = run("--model", "tiny-bcos", "--explained", 1, "--explanation", "deeplift")
    assert said.startswith(
        "--explanation cannot serve model 'tiny-bcos': deeplift has no rule for B-cos layers: choose "
    )
    assert "'tiny-natural'" in run("--explained", 1, "--explanation", "dynamic_weights")


def test_a_method_is_not_asked_of_a_run_that_explains_nothing(tiny_zoo: Path) -> None:
    succeed("run", "--zoo", tiny_zoo, *SMALL, "--explanation", "dynamic_weights", "--dry-run")


# Images


def write_images(folder: Path, *, classes: int = 10, size: tuple[int, int] = (8, 8)) -> Path:
    for label in range(classes):
        place = folder / "test" / f"class-{label}"
        place.mkdir(parents=True)
        for number in range(2):
            # Noise, which does not compress: cutting the file off cuts pixels off.
            pixels = torch.randint(
                256, (size[1], size[0], 3), generator=torch.Generator().manual_seed(9 * label + number)
            )
            Image.fromarray(pixels.to(torch.uint8).numpy()).save(place / f"{number}.png")
    return folder


def test_images_that_fit_are_not_refused(tiny_zoo: Path, here: Path) -> None:
    data = f"folder:{write_images(here / 'data')}"
    succeed(
        "run",
        "--zoo",
        tiny_zoo,
        "--model",
        "tiny-natural",
        "--eps",
        0.5,
        "--dataset",
        data,
        "--steps",
        1,
        "--no-figures",
    )


@pytest.mark.parametrize("added", [[], ["--dry-run"]])
def test_a_truncated_image_is_named_before_anything_is_attacked(
    added: list[str], run: Callable[..., str], here: Path
) -> None:
    file = write_images(here / "data") / "test" / "class-7" / "1.png"
    file.write_bytes(file.read_bytes()[:-90])
    said = run("--eps", 0.5, "--dataset", f"folder:{here / 'data'}", "--limit", 20, *added)
    assert said.startswith(f"image {file} cannot be decoded (")
    assert said.endswith("): replace it or take it out")


def test_images_of_another_size_than_the_models_are_refused(run: Callable[..., str], here: Path) -> None:
    said = run("--eps", 0.5, "--dataset", f"folder:{write_images(here / 'data', size=(12, 16))}")
    assert "model 'tiny-natural' takes images of 8x8 pixels and folder:" in said
    assert "has 16x12: give --crop 8, and --resize to what the shorter side should be before it" in said


def test_images_of_two_sizes_are_refused(run: Callable[..., str], here: Path) -> None:
    folder = write_images(here / "data")
    Image.new("RGB", (9, 8)).save(folder / "test" / "class-9" / "1.png")
    assert "has shape (3, 8, 9) and the first has (3, 8, 8)" in run(
        "--eps", 0.5, "--dataset", f"folder:{folder}", "--limit", 20
    )


def test_another_number_of_classes_is_refused(run: Callable[..., str], here: Path) -> None:
    said = run("--eps", 0.5, "--dataset", f"folder:{write_images(here / 'data', classes=3)}")
    assert "gives outputs of shape (2, 10) for 2 images" in said
    assert "has 3 classes: it must give one logit per image and class" in said


@pytest.mark.parametrize(
    ("dataset", "said"),
    [
        ("folder:nowhere", "is not a folder: give the folder that holds the class folders"),
        ("folder:empty", "holds no images in class folders"),
        ("cifar10", "dataset cifar10 needs data_dir"),
    ],
)
def test_images_that_are_not_there_are_named(dataset: str, said: str, run: Callable[..., str], here: Path) -> None:
    (here / "empty").mkdir()
    assert said in run("--eps", 0.5, "--dataset", dataset)


def test_a_folder_without_cifar10_is_named(run: Callable[..., str]) -> None:
    assert "dataset cifar10 is not in data_dir ." in run("--eps", 0.5, "--dataset", "cifar10", "--data-dir", ".")


# Weights


class Program:
    """What a checkpoint must not be able to do: this makes a folder as soon as it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.mkdir, (self.marker,)


def damaged_weights(kind: str, zoo: Path, folder: Path) -> Path:
    good = zoo / "tiny-natural.safetensors"
    tensors = load_file(good)
    if kind in ("truncated", "header"):
        file = folder / "mine.safetensors"
        file.write_bytes(good.read_bytes()[:-100] if kind == "truncated" else struct.pack("<Q", 10**12) + b"{}")
    elif kind == "nan":
        file = folder / "mine.safetensors"
        tensors["fc.bias"][2] = torch.nan
        save_file(tensors, file)
    elif kind == "missing tensor":
        file = folder / "mine.safetensors"
        del tensors["layer2.0.conv1.weight"]
        save_file(tensors, file)
    else:
        file = folder / "mine.pt"
        content = {"elsewhere": tensors} if kind == "elsewhere" else Program(folder / "marker")
        if kind == "plain pickle":
            file.write_bytes(pickle.dumps(content))
        else:
            torch.save(content, file)
        if kind == "truncated torch":
            torch.save(tensors, file)
            file.write_bytes(file.read_bytes()[:-5000])
    return file


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("truncated", "mine.safetensors are not a whole safetensors file"),
        ("header", "mine.safetensors are not a whole safetensors file"),
        ("nan", "tensor 'fc.bias' holds NaN or infinite values: get another checkpoint"),
        ("missing tensor", "missing layer2.0.conv1.weight (32, 16, 3, 3): none of the "),
        ("truncated torch", "mine.pt are not a whole torch checkpoint"),
        ("elsewhere", "mine.pt hold a dictionary of elsewhere and no state dict (names to tensors): save model.state"),
        ("pickle", "programs in a checkpoint are not run: where they were made, torch.save(model.state_dict(),"),
        ("plain pickle", "programs in a checkpoint are not run: where they were made, torch.save(model.state_dict(),"),
    ],
)
def test_weights_that_cannot_be_trusted_are_refused_and_never_executed(
    kind: str, said: str, run: Callable[..., str], tiny_zoo: Path, here: Path
) -> None:
    file = damaged_weights(kind, tiny_zoo, here)
    assert said in run("--weights", file, "--architecture", "resnet8")
    assert not (here / "marker").exists()


def test_the_program_in_the_checkpoint_would_have_run(here: Path) -> None:
    pickle.loads(pickle.dumps(Program(here / "marker")))
    assert (here / "marker").exists()


@pytest.mark.parametrize(
    ("added", "said"),
    [
        (["--weights", "own_nets.py"], "weights own_nets.py are neither a whole safetensors file nor a whole torch"),
        (["--architecture", "resnet8"], "architecture describes weights: give them too, or leave it out"),
        (["--ema"], "ema describes weights: give them too, or leave it out"),
        (["--weights", "nowhere.pt", "--architecture", "resnet8"], "weights nowhere.pt cannot be read (No such file"),
        (["--weights", ".", "--architecture", "resnet8"], "cannot be read (Is a directory)"),
        (["--weights", str(WHOLE), "--architecture", "resnt8"], "unknown architecture 'resnt8': did you mean"),
    ],
)
def test_weights_that_are_not_there_are_named(added: list[str], said: str, run: Callable[..., str]) -> None:
    assert said in run(*added)


def test_weights_of_another_architecture_are_refused(run: Callable[..., str], tiny_zoo: Path, here: Path) -> None:
    file = here / "mine.safetensors"
    file.write_bytes((tiny_zoo / "tiny-natural.safetensors").read_bytes())
    said = run("--weights", file, "--architecture", "bcos_resnet8")
    assert "prefix bcos_ marks B-cos networks" in said
    assert said.endswith(": use --architecture resnet8, which has exactly these tensors")
    said = run("--weights", file, "--architecture", "resnet20")
    assert "do not fit the architecture: missing layer1.1." in said
    assert said.endswith(": use --architecture resnet8, which has exactly these tensors")
    assert run("--weights", file).endswith(": use --architecture resnet8, which has exactly these tensors")


def test_weights_that_differ_from_their_card_are_refused(run: Callable[..., str], tiny_zoo: Path, here: Path) -> None:
    (here / "zoo").mkdir()
    text = (tiny_zoo / "tiny-bcos.toml").read_text(encoding="utf-8").replace("tiny-bcos", "other-bcos")
    (here / "zoo" / "other-bcos.toml").write_text(text, encoding="utf-8")
    content = bytearray((tiny_zoo / "tiny-bcos.safetensors").read_bytes())
    content[-1] ^= 1
    (here / "zoo" / "other-bcos.safetensors").write_bytes(content)
    assert "have SHA-256 " in run("--zoo", "zoo", "--model", "other-bcos")


# Code of one's own


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Raises", "fails on images of shape (3, 8, 8) (shape mismatch somewhere): choose models that fit"),
        ("Pair", "returns tuple with tensors of shape (2, 10) and (2, 10), each of which may be logits: return the"),
        ("Nan", "gives NaN or infinite logits on clean images: check its weights"),
        ("Seven", "gives outputs of shape (2, 7) for 2 images, and digits has 10 classes"),
        ("Maps", "gives outputs of shape (2, 10, 1, 1) for 2 images"),
        ("Labels", "returns torch.int64: it must return a tensor of floating-point logits"),
        ("number", "it must be a torch.nn.Module or return one"),
        ("nothing", "it must return a torch.nn.Module"),
        ("Pixles", "cannot be imported (module 'own_nets' has no attribute 'Pixles')"),
    ],
)
def test_a_model_of_ones_own_that_does_not_fit_is_named(name: str, said: str, run: Callable[..., str]) -> None:
    assert f"own_nets:{name}" in run("--model", f"own_nets:{name}")
    assert said in run("--model", f"own_nets:{name}")


@pytest.mark.parametrize("name", ["no_such_module:make", ":make", "own_nets:"])
def test_a_module_that_is_not_there_is_named(name: str, run: Callable[..., str]) -> None:
    assert f"--model {name}" in run("--model", name)


def test_a_bug_in_ones_own_constructor_is_shown_where_it_is(run: Callable[..., str]) -> None:
    line = NETS.splitlines().index('    raise OSError("my own disk")') + 1
    assert run("--model", "own_nets:broken") == (
        f"--model own_nets:broken could not be made (OSError: my own disk, own_nets.py, line {line}): mend it there"
    )


# The folder of the run


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("own_nets.py", "--out own_nets.py is a file: choose a folder"),
        ("own_nets.py/run", "own_nets.py/run cannot be written (Not a directory): choose another folder"),
        (".", "--out . holds other files (own_nets.py) and is not a run: choose a new folder"),
        ("/proc/run", "/proc/run cannot be written"),
        ("n" * 300, "cannot be written (File name too long): choose another folder"),
    ],
)
def test_a_folder_that_cannot_be_the_runs_is_refused(out: str, said: str, run: Callable[..., str]) -> None:
    assert said in run("--out", out)


def test_the_folder_of_another_configuration_is_left_alone(tiny_zoo: Path, run: Callable[..., str]) -> None:
    succeed("run", "--zoo", tiny_zoo, *SMALL, "--out", "mine")
    said = run("--out", "mine", "--seed", "4")
    assert said == (
        "run mine belongs to another configuration (seed is 0 there and 4 here): choose another --out, leave "
        "it out, or --overwrite that run"
    )
    assert "belongs to another configuration (other cells)" in run("--out", "mine", "--eps", "0.25")


def test_the_folder_of_the_same_weights_read_otherwise_is_left_alone() -> None:
    mine = ["--weights", Zoo()["digits-bcos-b2"].weights_file, "--architecture", "bcos_resnet8", "--out", "mine"]
    options = [*SMALL[2:], *mine]
    succeed("run", *options)
    for other in (["--argument", "b=1.5"], ["--argument", "temperature=2.0"]):
        said = refusal("run", *options, *other)
        assert said.startswith("run mine belongs to another configuration (other reading)")


def test_an_unpickled_module_is_not_a_state_dict(run: Callable[..., str], here: Path) -> None:
    torch.save(nn.Linear(2, 3), here / "mine.pt")
    assert "hold more than tensors" in run("--weights", "mine.pt", "--architecture", "resnet8")
