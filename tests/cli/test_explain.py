"""``explain``, from the command to the files; and ``report --images``, which shows what a run has explained."""

import errno
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from torch import Tensor, nn

import robustbench_bcos
from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.data.datasets.digits import Digits
from robustbench_bcos.data.subset import EvalSubset
from robustbench_bcos.explanations.stability import stability
from robustbench_bcos.reports import gallery
from tests.cli.command_line import call, refusal, succeed
from tests.cli.own_models import OWN_MODELS

BCOS, NATURAL = "digits-bcos-b2", "digits-natural"
PLACES = (3, 14, 40, 7)
"""Digits painted as 0.png, 1.png, ..."""


@pytest.fixture(autouse=True)
def own_code(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module in the working folder, which is forgotten afterwards."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "explained_nets", raising=False)
    (here / "explained_nets.py").write_text(OWN_MODELS, encoding="utf-8")


@pytest.fixture(scope="session")
def levels() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Four digits of 8x8 pixels, as files hold them."""
    images = EvalSubset(Digits("test"), PLACES).batch(0, 4).images
    return (255 * images).round().to(torch.uint8).movedim(1, 3).numpy()


@pytest.fixture
def files(here: Path, levels: np.ndarray[Any, np.dtype[np.uint8]]) -> list[Path]:
    """A folder of frames, which are images of their own too."""
    (here / "frames").mkdir()
    found = [here / "frames" / f"{number}.png" for number in range(len(levels))]
    for file, pixels in zip(found, levels, strict=True):
        Image.fromarray(pixels).save(file)
    return found


@pytest.fixture
def animation(here: Path, levels: np.ndarray[Any, np.dtype[np.uint8]]) -> Path:
    """The same as a GIF: 17 levels of grey fit its palette."""
    first, *others = [Image.fromarray(pixels) for pixels in levels]
    first.save(here / "moving.gif", save_all=True, append_images=others, duration=[50, 120, 70, 200])
    return here / "moving.gif"


def images_of(levels: np.ndarray[Any, np.dtype[np.uint8]]) -> Tensor:
    return torch.from_numpy(levels).movedim(3, 1).float() / 255


def maps(folder: str = "explanations") -> dict[str, Tensor]:
    with np.load(Path(folder, "maps.npz"), allow_pickle=False) as found:
        return {name: torch.from_numpy(found[name]) for name in found}


def explanation(model: str | nn.Module, images: Tensor, targets: Tensor | None = None, method: str = "auto") -> Tensor:
    classifier = robustbench_bcos.load_model(model) if isinstance(model, str) else model
    return robustbench_bcos.explain(classifier, images, targets, method).contributions


def names_in(folder: str = "explanations") -> list[str]:
    return sorted(file.name for file in Path(folder).iterdir())


def words(out: str) -> list[list[str]]:
    """Lines of a table as words, without its lines."""
    return [line.replace("│", " ").split() for line in out.splitlines()]


# Images


def test_image_files_are_explained_in_the_order_given(files: list[Path], levels: Any) -> None:
    out = succeed("explain", files[2], files[0], "--model", BCOS)
    found, images = maps(), images_of(levels[[2, 0]])
    assert torch.equal(found["images"], images)
    assert torch.equal(found["contributions"], explanation(BCOS, images))
    assert names_in() == [
        "001_2_explanation.png",
        "002_0_explanation.png",
        "maps.npz",
        "panel_01.png",
    ]
    assert out.startswith(f"{BCOS} · dynamic_weights\n")
    predictions = found["logits"].argmax(dim=1).tolist()
    rows = [line for line in words(out) if line[:1] in (["2"], ["0"])]
    assert [row[:2] for row in rows] == [["2", str(predictions[0])], ["0", str(predictions[1])]]
    assert out.endswith("Written to explanations: 4 files, maps.npz with all arrays\n")


def test_several_models_are_put_side_by_side(files: list[Path], levels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    heads: list[Any] = []
    monkeypatch.setattr(gallery, "models_panel", recorded(heads, gallery.models_panel))
    out = succeed("explain", *files[:2], "--model", f"{BCOS},{NATURAL}", "--eps", "0.1")
    assert names_in() == [BCOS, NATURAL, "models_01.png"]
    for name in (BCOS, NATURAL):
        found, images = maps(f"explanations/{name}"), images_of(levels[:2])
        assert torch.equal(found["images"], images)
        assert torch.equal(found["contributions"], explanation(name, images))
        assert f"{name} · " in out
    ((rows, _, _, columns),) = heads
    assert [*rows] == [BCOS, NATURAL]
    assert [*columns] == ["0.png", "1.png"]
    assert out.endswith("Side by side in explanations: models_01.png\n")


def recorded(calls: list[Any], function: Callable[..., Any]) -> Callable[..., Any]:
    def call_it(*arguments: Any) -> Any:
        calls.append(arguments)
        return function(*arguments)

    return call_it


@pytest.mark.parametrize(
    ("dataset", "heads"), [(False, ["2.png", "0.png"]), (True, ["image 3", "image 14"])], ids=["files", "dataset"]
)
def test_columns_of_a_panel_are_headed_by_file_names(
    dataset: bool, heads: list[str], files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(gallery, "attack_panel", recorded(calls, gallery.attack_panel))
    given = ["--dataset", "digits", "--images", "3,14"] if dataset else [files[2], files[0]]
    succeed("explain", *given, "--model", NATURAL)
    assert [*calls[0][3]] == heads


def test_files_of_one_name_are_told_apart_by_their_folders(
    files: list[Path], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(gallery, "attack_panel", recorded(calls, gallery.attack_panel))
    (here / "other").mkdir()
    other = shutil.copy(files[1], here / "other" / files[0].name)
    succeed("explain", files[0], other, files[2], "--model", NATURAL)
    own = f"{files[0].parent.name}/0.png"
    assert [*calls[0][3]] == [own, "other/0.png", "2.png"]
    assert names_in()[:2] == [f"001_{own.replace('/', '-')}_explanation.png", "002_other-0.png_explanation.png"]


def test_old_pictures_are_not_mixed_with_new_ones(files: list[Path], here: Path) -> None:
    succeed("explain", *files, "--model", f"{BCOS},{NATURAL}")
    assert refusal("explain", files[0], "--model", NATURAL) == (
        "--out explanations holds explanations already: choose another folder, or --overwrite them"
    )
    succeed("explain", files[0], "--model", NATURAL, "--overwrite")
    assert names_in() == ["001_0_explanation.png", "maps.npz", "panel_01.png"]
    (here / "explanations/thesis.tex").write_text("chapter one", encoding="utf-8")
    for added in ([], ["--overwrite"]):
        said = refusal("explain", files[0], "--model", NATURAL, *added)
        assert said == "--out explanations holds other files (thesis.tex): choose a new folder"
    assert (here / "explanations/thesis.tex").read_text(encoding="utf-8") == "chapter one"


@pytest.mark.parametrize("source", ["files", "dataset"])
def test_what_was_converted_is_said_as_run_says_it(source: str, here: Path, levels: Any) -> None:
    files = [here / "pictures" / str(label) / "image.png" for label in range(10)]
    for file in files:
        file.parent.mkdir(parents=True)
        Image.fromarray(levels[1]).save(file)
    Image.fromarray(levels[0, ..., 0].astype(np.uint16) * 257).save(files[0])
    asked = files[:2] if source == "files" else ["--dataset", "folder:pictures", "--images", "0,1"]
    outcome = call("explain", *asked, "--model", f"{BCOS},{NATURAL}")
    assert outcome.code == 0, outcome.err
    assert outcome.err.splitlines().count("Images cut from 16 bits to 8: 1.") == 1


@pytest.mark.parametrize("models", [NATURAL, f"{BCOS},{NATURAL}"])
def test_what_a_full_disk_left_is_not_in_the_way(
    models: str, files: list[Path], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def full(source: Path, target: Path) -> None:
        if Path(target).name == "maps.npz":
            Path("explanations/notes.txt").write_text("mine", encoding="utf-8")
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as small:
        small.setattr(os, "replace", full)
        assert "is full: free some space, then repeat the command" in refusal("explain", files[0], "--model", models)
    (left,) = [file for file in (here / "explanations").rglob("*") if file.is_file()]
    assert left.name == "notes.txt"
    left.unlink()
    succeed("explain", files[0], "--model", models)


def test_pictures_are_rgba_of_the_images_size(files: list[Path]) -> None:
    succeed("explain", *files, "--model", NATURAL, "--out", "deep/mine")
    pictures = maps("deep/mine")["pictures"].numpy()
    for number, expected in enumerate(pictures):
        with Image.open(Path("deep/mine", f"00{number + 1}_{number}_explanation.png")) as image:
            assert image.mode == "RGBA"
            assert image.size == (8, 8)
            # Matplotlib cuts 255 * value off where others round: less than one level.
            assert np.abs(np.asarray(image) - 255 * expected.astype(np.float64)).max() < 1 + 1e-4


def test_images_of_a_dataset_are_named_by_index_and_class() -> None:
    out = succeed("explain", "--model", NATURAL, "--dataset", "digits", "--images", "3,14", "--images", 40)
    batch = EvalSubset(Digits("test"), (3, 14, 40)).batch(0, 3)
    assert torch.equal(maps()["images"], batch.images)
    assert torch.equal(maps()["contributions"], explanation(NATURAL, batch.images))
    assert [name for name in names_in() if name.endswith("_explanation.png")] == [
        "001_image-3_explanation.png",
        "002_image-14_explanation.png",
        "003_image-40_explanation.png",
    ]
    assert out.startswith(f"{NATURAL} · input_x_gradient\n")
    rows = [line[:2] for line in words(out) if line and line[0].startswith("image-")]
    labels = batch.labels.tolist()
    assert rows == [[f"image-{index}", str(label)] for index, label in zip((3, 14, 40), labels, strict=True)]


@pytest.mark.parametrize("dataset", [True, False])
def test_an_attack_is_explained_beside_the_image(dataset: bool, files: list[Path], levels: Any) -> None:
    asked = ["--dataset", "digits", "--images", "14,40"] if dataset else files[1:3]
    how = ["--norm", "linf", "--eps", "20/255", "--steps", 3, "--loss", "ce", "--restarts", 2, "--seed", 6]
    out = succeed("explain", *asked, "--model", BCOS, *how)
    classifier = robustbench_bcos.load_model(BCOS)
    batch = EvalSubset(Digits("test"), (14, 40)).batch(0, 2)
    images = batch.images if dataset else images_of(levels[1:3])
    led_from = batch.labels if dataset else classifier(images).argmax(dim=1)
    generator = PerImageRng.of(6, (14, 40) if dataset else (0, 1))
    attack = robustbench_bcos.PGD(steps=3, loss="ce", restarts=2, select="best_loss")
    attacked = attack(classifier, images, led_from, "linf", "20/255", rng=generator).adversarials
    found = maps()
    assert torch.equal(found["images"], images)
    assert torch.equal(found["attacked_images"], attacked)
    assert torch.equal(found["attacked_contributions"], explanation(BCOS, attacked))
    assert len([name for name in names_in() if name.endswith("_explanation_attacked.png")]) == 2
    assert out.startswith(f"{BCOS} · dynamic_weights · linf 20/255, 3 steps\n")
    after = [f"{prediction}" for prediction in found["attacked_logits"].argmax(dim=1).tolist()]
    rows = [line for line in words(out) if line[-1:] and line[-1].endswith("%)")]
    assert [row[-2] for row in rows] == after


def test_an_attack_needs_nothing_but_its_radius(files: list[Path]) -> None:
    assert " · l2 0.5, 20 steps\n" in succeed("explain", files[0], "--model", NATURAL, "--eps", 0.5)
    found = maps()
    assert 0 < float((found["attacked_images"] - found["images"]).norm()) <= 0.5 * (1 + 1e-6)


def test_the_same_command_gives_the_same_files(files: list[Path]) -> None:
    command = ["explain", files[1], "--model", BCOS, "--eps", 0.3, "--steps", 2, "--restarts", 2]
    succeed(*command, "--out", "first")
    succeed(*command, "--out", "again")
    for name in names_in("first"):
        assert Path("first", name).read_bytes() == Path("again", name).read_bytes(), name


def test_a_class_to_explain_is_asked_for_by_number(files: list[Path], levels: Any) -> None:
    out = succeed("explain", *files, "--model", BCOS, "--target", 7)
    assert out.startswith(f"{BCOS} · dynamic_weights of class 7\n")
    images = images_of(levels)
    assert torch.equal(maps()["contributions"], explanation(BCOS, images, torch.full((4,), 7)))


@pytest.fixture
def named(here: Path, levels: Any) -> str:
    """Ten classes that have names."""
    for number, name in enumerate(["ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen", "ibis", "jay"]):
        (here / "zoo" / name).mkdir(parents=True)
        Image.fromarray(levels[number % 4]).save(here / "zoo" / name / "0.png")
    return f"folder:{here / 'zoo'}"


@pytest.mark.parametrize(("target", "place"), [("gnu", 6), ("6", 6), ("jay", 9)])
def test_a_class_to_explain_is_asked_for_by_name(target: str, place: int, named: str) -> None:
    out = succeed("explain", "--model", BCOS, "--dataset", named, "--images", 2, "--target", target)
    names = ["ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen", "ibis", "jay"]
    assert f" of class {names[place]}\n" in out
    assert maps()["targets"].tolist() == [place]
    assert next(line for line in words(out) if line[:1] == ["image-2"])[1] == "cat"


def test_a_name_that_is_a_number_names_its_class_first(here: Path, levels: Any) -> None:
    for name in "123456789x":
        (here / "odd" / name).mkdir(parents=True)
        Image.fromarray(levels[0]).save(here / "odd" / name / "0.png")
    for target, place in {"9": 8, "0": 0}.items():
        succeed(
            "explain",
            "--model",
            BCOS,
            "--dataset",
            "folder:odd",
            "--images",
            0,
            "--target",
            target,
            "--out",
            f"to-{target}",
        )
        assert maps(f"to-{target}")["targets"].tolist() == [place]


def test_another_method_can_be_asked_for(files: list[Path], levels: Any) -> None:
    out = succeed("explain", files[0], "--model", BCOS, "--method", "gradcam")
    assert out.startswith(f"{BCOS} · gradcam\n")
    assert torch.equal(maps()["contributions"], explanation(BCOS, images_of(levels[:1]), None, "gradcam"))
    assert "weights" not in maps()


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("tiny-natural", ["--architecture", "resnet8"]),
        (
            "tiny-bcos",
            ["--architecture", "bcos_resnet8", "--encoding", "add_inverse", "--argument", "temperature=2e-4"],
        ),
    ],
)
def test_weights_are_explained_with_their_architecture(
    name: str, how: list[str], tiny_zoo: Path, files: list[Path], levels: Any
) -> None:
    weights = tiny_zoo / f"{name}.safetensors"
    out = succeed("explain", files[0], "--weights", weights, *how)
    assert out.startswith(f"{name} · ")
    arguments = {"temperature": 2e-4} if "bcos" in name else {}
    model = robustbench_bcos.load_model(weights, architecture=how[1], **arguments)
    assert torch.equal(maps()["contributions"], explanation(model, images_of(levels[:1])))


def test_a_zoo_of_ones_own_is_searched(tiny_zoo: Path, files: list[Path]) -> None:
    assert succeed("explain", files[0], "--zoo", tiny_zoo, "--model", "tiny-bcos").startswith("tiny-bcos · dynamic_w")


def test_code_of_ones_own_is_explained_at_any_size(here: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(here / "wide.png")
    out = succeed("explain", "wide.png", "--model", "explained_nets:Pixels", "--target", 4)
    assert out.startswith("explained_nets:Pixels · input_x_gradient of class 4\n")
    expected = torch.zeros(5, 12)
    # The fifth value of the first channel is the fifth logit.
    expected[0, 4] = float(pixels[0, 4, 0]) / 255
    assert torch.equal(maps()["contributions"][0], expected)


# Moving pictures


@pytest.mark.parametrize("kind", ["animation", "folder"])
def test_a_moving_picture_is_explained_frame_by_frame(
    kind: str, animation: Path, files: list[Path], levels: Any
) -> None:
    out = succeed("explain", animation if kind == "animation" else files[0].parent, "--model", BCOS)
    images = images_of(levels)
    classifier = robustbench_bcos.load_model(BCOS)
    target = int(classifier(images).mean(dim=0).argmax())
    contributions = explanation(BCOS, images, torch.full((4,), target))
    assert torch.equal(maps()["images"], images)
    assert torch.equal(maps()["contributions"], contributions)
    steady = stability(images, contributions)
    assert out.splitlines() == [
        f"4 frames, class {target}",
        f"stability of maps {steady.maps:.3f}, of frames {steady.frames:.3f} (mean correlation of neighbours)",
        "Written to explanations: moving.gif, maps.npz",
    ]
    assert names_in() == ["maps.npz", "moving.gif"]
    with Image.open("explanations/moving.gif") as shown:
        times = [frame.info["duration"] for frame in ImageSequence.Iterator(shown)]
        first = np.asarray(next(ImageSequence.Iterator(shown)).convert("RGB"))
    assert times == ([50, 120, 70, 200] if kind == "animation" else [100] * 4)
    # The input is on the left, 24 times as large.
    assert np.array_equal(first[::24, ::24][:, :8], levels[0])


def test_a_class_can_be_asked_of_a_moving_picture(animation: Path, levels: Any) -> None:
    assert "4 frames, class 2\n" in succeed("explain", animation, "--model", BCOS, "--target", 2, "--out", "mine")
    contributions = explanation(BCOS, images_of(levels), torch.full((4,), 2))
    assert torch.equal(maps("mine")["contributions"], contributions)


def test_class_0_is_a_class_as_any_other(animation: Path) -> None:
    assert "4 frames, class 0\n" in succeed("explain", animation, "--model", BCOS, "--target", 0)
    assert maps()["targets"].tolist() == [0] * 4


def test_a_picture_that_stands_still_is_perfectly_stable(here: Path, levels: Any) -> None:
    (here / "still").mkdir()
    for number in range(3):
        Image.fromarray(levels[0]).save(here / "still" / f"{number}.png")
    assert "stability of maps 1.000, of frames 1.000 " in succeed("explain", "still", "--model", BCOS)


# Bad input


@pytest.fixture
def refused(here: Path, files: list[Path], animation: Path) -> Callable[..., str]:
    """The one sentence a command is refused with; whatever it leaves behind is an error."""

    def content() -> dict[Path, bytes | None]:
        entries = [file for file in here.rglob("*") if "__pycache__" not in str(file)]
        return {file: file.read_bytes() if file.is_file() else None for file in entries}

    def attempt(*arguments: object) -> str:
        before = content()
        said = refusal("explain", *arguments)
        assert content() == before
        return said

    return attempt


FILE = ["frames/0.png"]
DIGITS = ["--dataset", "digits", "--images", "3"]
ATTACK = ["--eps", "0.5"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (FILE, "explain needs a model: give --model NAME, or --weights FILE with --architecture NAME"),
        ([*FILE, "--model", BCOS, "--weights", "w.pt"], "--model and --weights name two models: explain one at a time"),
        ([*FILE, "--weights", "w.pt"], "weights w.pt cannot be read (No such file"),
        ([*FILE, "--weights", "w.pt", "--architecture", "resnet8"], "weights w.pt cannot be read (No such file"),
        ([*FILE, "--model", "digits-bcos-2"], "unknown model 'digits-bcos-2': did you mean 'digits-bcos-b2'?"),
        ([*FILE, "--model", "nowhere:net"], "--model nowhere:net cannot be imported (No module named 'nowhere'): give"),
        (["--model", BCOS], "explain needs images: give image files, or --dataset NAME with --images 3,14,15"),
        ([*FILE, *DIGITS, "--model", BCOS], "explain needs images: give image files, or --dataset NAME with --images"),
        (["--model", BCOS, *DIGITS[:2]], "--dataset and --images belong together: give both, or image files instead"),
        ([*FILE, "--model", BCOS, *DIGITS[2:]], "--dataset and --images belong together: give both, or image files"),
    ],
)
def test_a_request_that_is_not_whole_says_what_is_missing(
    arguments: list[str], said: str, refused: Callable[..., str]
) -> None:
    assert said in refused(*arguments)


@pytest.mark.parametrize(
    ("added", "said"),
    [
        (["--method", "gradcamm"], "unknown explanation 'gradcamm': did you mean 'gradcam'?"),
        (["--method", "deeplift"], "deeplift has no rule for B-cos layers: choose dynamic_weights or"),
        (["--target", "10"], "unknown class '10': "),
        (["--target", "-1"], "unknown class '-1': "),
        (["--target", "dog"], "unknown class 'dog': choose from 0, 1, 2, 3, 4, 5, 6, 7, 8, 9"),
        (["--target", "²"], "unknown class '²': choose from"),
        (["--target", ""], "unknown class '': choose from"),
        (["--norm", "l2"], "--norm describes an attack: give its radius with --eps, or leave it out"),
        (["--steps", "5"], "--steps describes an attack: give its radius with --eps, or leave it out"),
        (["--loss", "ce"], "--loss describes an attack: give its radius with --eps, or leave it out"),
        (["--restarts", "2"], "--restarts describes an attack: give its radius with --eps, or leave it out"),
        ([*ATTACK, "--norm", "l3"], "unknown norm 'l3': did you mean 'l2'?"),
        ([*ATTACK, "--loss", "margins"], "unknown loss 'margins': did you mean 'margin'?"),
        ([*ATTACK, "--steps", "0"], "steps.0: input should be greater than or equal to 1, got 0"),
        ([*ATTACK, "--restarts", "0"], "restarts.0: input should be greater than or equal to 1, got 0"),
        (["--eps", "abc"], "eps 'abc' is not a number: write a decimal such as 0.5 or a fraction such as 8/255"),
        (["--eps", "-1"], "must be finite and not negative: write 0.5 or 8/255"),
        (["--eps", "nan"], "must be finite and not negative: write 0.5 or 8/255"),
        (["--eps", "8", "--norm", "linf"], "did you mean 8/255?"),
        (["--eps", "13.9"], "eps 13.9 for norm l2 is larger than the whole pixel range, 13.8564"),
        (["--argument", "b=2"], "argument describes weights: give them too, or leave it out"),
        (["--zoo", "nowhere"], "--zoo nowhere is not a folder: give the folder that holds card files"),
        (["--out", "frames/0.png"], "frames/0.png cannot be written (File exists): choose another folder"),
    ],
)
@pytest.mark.parametrize("images", [FILE, DIGITS], ids=["files", "dataset"])
def test_a_word_or_number_that_means_nothing_is_named(
    added: list[str], said: str, images: list[str], refused: Callable[..., str]
) -> None:
    assert said in refused(*images, "--model", BCOS, *added)


def test_dynamic_weights_are_not_to_be_had_of_other_networks(refused: Callable[..., str]) -> None:
    said = refused(*FILE, "--model", NATURAL, "--method", "dynamic_weights")
    assert said.startswith("dynamic_weights explains B-cos networks and this one is conventional: choose ")


def test_classes_of_a_dataset_are_suggested_by_name(named: str, refused: Callable[..., str]) -> None:
    said = refused("--dataset", named, "--images", 2, "--model", BCOS, "--target", "ibi")
    assert said.startswith("unknown class 'ibi': did you mean 'ibis'? choose from ant, bee, cat, ")


@pytest.mark.parametrize(
    ("dataset", "images", "said"),
    [
        ("digits", "1797", "is not in digits: its images are numbered 0 to "),
        ("digits", "0,-3", "images '-3' is not the index of an image: give numbers from 0"),
        ("digits", "zero", "images 'zero' is not the index of an image: give numbers from 0"),
        ("digits", "1.5", "images '1.5' is not the index of an image: give numbers from 0"),
        ("digits", ",", "--images is empty: give it a value"),
        ("digit", "3", "unknown dataset 'digit': did you mean 'digits'?"),
        ("folder:nowhere", "3", "is not a folder: give the folder that holds the class folders"),
        ("cifar10", "3", "dataset cifar10 needs data_dir"),
    ],
)
def test_images_of_a_dataset_that_are_not_there_are_named(
    dataset: str, images: str, said: str, refused: Callable[..., str]
) -> None:
    assert said in refused("--model", BCOS, "--dataset", dataset, "--images", images)


def test_a_dataset_that_does_not_fit_the_model_is_refused(here: Path, refused: Callable[..., str]) -> None:
    (here / "zoo" / "cat").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(here / "zoo" / "cat" / "0.png")
    said = refused("--model", BCOS, "--dataset", "folder:zoo", "--images", 0)
    assert "has 1 classes: it must give one logit per image and class" in said


def alpha(file: Path) -> None:
    Image.new("RGBA", (8, 8)).save(file)


def fractions(file: Path) -> None:
    Image.new("F", (8, 8)).save(file, "TIFF")


def large(file: Path) -> None:
    Image.new("RGB", (16, 12)).save(file)


def cut(file: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(file)
    file.write_bytes(file.read_bytes()[:-60])


def text(file: Path) -> None:
    file.write_text("no image")


def missing(_: Path) -> None:
    pass


BROKEN = [
    (alpha, "{file} is partly transparent, and nothing tells what is behind it: flatten it"),
    (fractions, "{file} is floating-point, whose black and white nothing tells: convert it to 8-bit RGB"),
    (large, "{file} has 12x16 pixels and 8x8 are needed: resize it, all to one size"),
    (cut, "image {file} cannot be decoded ("),
    (text, "image {file} cannot be decoded ("),
]

every_broken_file = pytest.mark.parametrize(("broken", "said"), BROKEN, ids=[broken.__name__ for broken, _ in BROKEN])


@every_broken_file
@pytest.mark.parametrize("attack", [[], ATTACK], ids=["", "attacked"])
def test_a_file_that_is_no_image_of_the_right_size_is_named(
    broken: Callable[[Path], None], said: str, attack: list[str], here: Path, refused: Callable[..., str]
) -> None:
    broken(here / "mine.png")
    assert refused(*FILE, "mine.png", "--model", BCOS, *attack).startswith(said.format(file="mine.png"))


def test_a_file_that_is_missing_is_named(refused: Callable[..., str]) -> None:
    assert refused(*FILE, "gone.png", "--model", BCOS).startswith("gone.png does not exist: give image files")


@every_broken_file
def test_a_frame_that_is_no_image_of_the_right_size_is_named(
    broken: Callable[[Path], None], said: str, here: Path, refused: Callable[..., str]
) -> None:
    broken(here / "frames" / "9.png")
    assert refused("frames", "--model", BCOS).startswith(said.format(file="frames/9.png"))


def test_files_of_two_sizes_are_refused_by_a_model_that_takes_any(here: Path, refused: Callable[..., str]) -> None:
    large(here / "mine.png")
    said = refused(*FILE, "mine.png", "--model", "explained_nets:Pixels")
    assert said == "mine.png has 12x16 pixels and 8x8 are needed: resize it, all to one size"


@pytest.mark.parametrize(("count", "held"), [(0, "0 frames"), (1, "1 frames")])
def test_a_folder_that_does_not_move_is_refused(
    count: int, held: str, here: Path, refused: Callable[..., str], levels: Any
) -> None:
    (here / "few").mkdir()
    for number in range(count):
        Image.fromarray(levels[0]).save(here / "few" / f"{number}.png")
    assert refused("few", "--model", BCOS) == f"few holds {held}: a moving picture needs at least two image files"


@pytest.mark.parametrize("what", ["frames", "moving.gif"])
def test_a_moving_picture_is_explained_alone_and_without_an_attack(what: str, refused: Callable[..., str]) -> None:
    assert refused(*FILE, what, "--model", BCOS) == f"{what} is a moving picture: explain it alone"
    said = refused(what, "--model", BCOS, *ATTACK)
    assert said == f"{what} is a moving picture, which is not attacked: leave --eps out"


def test_a_moving_picture_of_another_size_is_refused(here: Path, refused: Callable[..., str]) -> None:
    frames = [Image.new("RGB", (10, 9), colour) for colour in ("red", "blue")]
    frames[0].save(here / "other.gif", save_all=True, append_images=frames[1:])
    said = refused("other.gif", "--model", BCOS)
    assert said == "frame 0 of other.gif has 9x10 pixels and 8x8 are needed: resize it, all to one size"


def test_a_damaged_moving_picture_is_refused(animation: Path, refused: Callable[..., str]) -> None:
    content = animation.read_bytes()
    # In the header of a later frame, and in its pixels.
    for length in (len(content) // 2, len(content) - 20, content.rindex(b"\x2c") + 3):
        animation.write_bytes(content[:length])
        assert refused("moving.gif", "--model", BCOS).startswith("image moving.gif cannot be decoded (")


@pytest.mark.parametrize("images", [FILE, DIGITS, ["moving.gif"]], ids=["files", "dataset", "moving"])
@pytest.mark.parametrize("net", ["Raises", "Pair", "Nan", "Labels"])
def test_a_model_that_gives_no_logits_is_refused(net: str, images: list[str], refused: Callable[..., str]) -> None:
    said = refused(*images, "--model", f"explained_nets:{net}")
    assert f"model 'explained_nets:{net}' " in said


# Panels of a run


@pytest.fixture
def run(tiny_zoo: Path) -> Callable[..., str]:
    """A run of 8 images, which draws nothing."""

    def carry_out(*added: object) -> str:
        small = ["--model", "tiny-natural", "--limit", 8, "--steps", 1, "--no-figures", "--out", "mine"]
        return succeed("run", "--zoo", tiny_zoo, *small, *added)

    return carry_out


def test_panels_of_a_run_that_has_explained_nothing_are_refused(run: Callable[..., str]) -> None:
    run()
    before = {name: Path("mine", name).read_bytes() for name in names_in("mine") if name != "run.sqlite"}
    said = refusal("report", "mine", "--images", 0)
    assert said == "run mine has no attacked images to picture: repeat it without --no-figures"
    assert {name: Path("mine", name).read_bytes() for name in names_in("mine") if name != "run.sqlite"} == before


def test_a_report_shows_the_images_asked_for_and_names_those_it_has_not(run: Callable[..., str]) -> None:
    index = EvalSubset.of(Digits("test"), 8).indices[5]
    run("--explained", 0, "--images", index)
    said = refusal("report", "mine", "--images", f"{index},1")
    assert said.startswith("--images 1 was not pictured for tiny-natural l2 0.5 pgd ")
    assert said.endswith(f": choose from {index}, or repeat the run with --images 1")
    assert not Path("mine/figures").exists()
    assert "is not the index of an image" in refusal("report", "mine", "--images", "zero")
    succeed("report", "mine", "--images", index)
    assert list(Path("mine/figures").glob("*.png"))
