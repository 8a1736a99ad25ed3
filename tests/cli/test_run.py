"""``run``: what is printed and what is written, for people and for programs."""

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from robustbench_bcos.bench import request as requests
from robustbench_bcos.bench.display import in_lines, watch
from robustbench_bcos.bench.progress import Progress
from robustbench_bcos.bench.records import COLUMNS
from robustbench_bcos.cli.output import errors
from tests.bench.by_hand import timing
from tests.bench.tiny_zoo import NAMES, tiny_request
from tests.cli.command_line import call, refusal, succeed

FILES = {
    "run.json",
    "run.sqlite",
    "run.lock",
    "results.csv",
    "images.csv",
    "timings.csv",
    "evidence.csv",
    "transfer.csv",
}
NETS = '''
import torch

class Pixels(torch.nn.Module):
    """Three logits, read off the first pixel's channels."""

    def forward(self, images):
        return 5 * images[:, :, 0, 0]

class Probabilities(Pixels):
    def forward(self, images):
        return super().forward(images).softmax(dim=1)

ready = Pixels()
'''


@pytest.fixture
def tiny(tiny_zoo: Path) -> list[str]:
    return ["run", "--zoo", str(tiny_zoo), "--model", ",".join(NAMES), "--limit", "12", "--steps", "2", "--no-figures"]


@pytest.fixture
def unchecked(tiny: list[str]) -> list[str]:
    """The same without evidence, which takes most of the time."""
    return [*tiny, "--evidence", "off"]


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def write_colours(folder: Path, *, size: tuple[int, int] = (8, 8), count: int = 3) -> Path:
    """A folder of three classes: reddish, greenish and bluish images."""
    for channel, name in enumerate(("1-red", "2-green", "3-blue")):
        (folder / "test" / name).mkdir(parents=True)
        for number in range(count):
            colour = [85 + 15 * number] * 3
            colour[channel] = 130
            Image.new("RGB", size, tuple(colour)).save(folder / "test" / name / f"{number}.png")
    return folder


# What is said of the images


def write_numbered(folder: Path, count: int) -> Path:
    """Class folders that are called by numbers, with an image each whose brightness counts as numbers do."""
    for number in range(count):
        (folder / str(number)).mkdir(parents=True)
        levels = np.full((8, 8), 5 * number, dtype=np.uint8)
        levels[4:] += 100
        Image.fromarray(levels).save(folder / str(number) / "0.png")
    return folder


def test_class_names_and_what_was_left_out_are_recorded_and_said(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    (here / "own_pixels.py").write_text(NETS, encoding="utf-8")
    write_numbered(here / "images", 3)
    (here / "images/1/notes.txt").write_text("none")
    (here / "names.json").write_text(json.dumps({"0": "dark", "1": "grey", "2": "bright"}))
    command = ["run", "--dataset", "folder:images", "--model", "own_pixels:Pixels", "--steps", "1", "--no-figures"]
    command += ["--eps", "0.5", "--classes", "names.json", "--evidence", "off"]
    out = succeed(*command, "--out", "done", "--skip-model-checks")
    said = "Left out: 1 that is no image of the formats BMP, GIF, JPEG, PNG, PPM, TIFF, WEBP (1/notes.txt)."
    assert said in out
    (session,) = json.loads((here / "done/run.json").read_text(encoding="utf-8"))["sessions"]
    assert session["class_names"] == ["dark", "grey", "bright"]
    assert said in session["images"]


def test_numbered_folders_are_refused_with_both_orders_before_anything_is_attacked(here: Path) -> None:
    write_numbered(here / "images", 11)
    said = refusal("run", "--dataset", "folder:images", "--model", "digits-natural", "--eps", "0.5")
    assert "order as text (0, 1, 10, 2, 3, ...) is not that of their numbers (0, 1, 2, 3, 4, ...)" in said


# What is printed


def test_the_first_screen_needs_no_options(here: Path) -> None:
    out = succeed("run", "--limit", 5, "--steps", 1, "--no-figures")
    (folder,) = (here / "runs").iterdir()
    assert folder.name.startswith("digits-l2-")
    written = rows(folder / "results.csv")
    assert {"digits-natural", "digits-adv-l2", "digits-bcos-b2"} <= {row["model"] for row in written}
    assert all(row["model"] in out for row in written)
    assert {(row["norm"], row["eps"], row["dataset"], row["images"]) for row in written} == {
        ("l2", "0.5", "digits", "5")
    }
    assert "Robust accuracy in % under pgd on 5 images of digits" in " ".join(out.split())
    assert "Trust: " in out
    assert (
        f"Written to runs/{folder.name}: results.csv, timings.csv, images.csv, evidence.csv, transfer.csv, table_l2.csv"
        in out
    )
    assert "\x1b" not in out


def test_quiet_prints_the_path_of_the_csv_and_nothing_else(unchecked: list[str]) -> None:
    assert call(*unchecked, "--out", "mine", "--quiet") == (0, "mine/results.csv\n", "")
    assert Path("mine/results.csv").is_file()


def test_json_is_the_rows_of_the_csv_and_strict(unchecked: list[str]) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    out = succeed(*unchecked, "--out", "mine", "--json", "--attack", "pgd,noise", "--eps", "8/255,0")
    printed = json.loads(out, parse_constant=refuse)
    assert printed["run"] == "mine"
    written = rows(Path("mine/results.csv"))
    assert len(printed["records"]) == len(written) == 8
    for record, row in zip(printed["records"], written, strict=True):
        assert tuple(record) == COLUMNS
        assert {key: "" if value is None else str(value) for key, value in record.items()} == row
    assert [record["step_size"] is None for record in printed["records"]] == 2 * [False, False, True, True]


def test_a_dry_run_prints_the_cells_and_writes_nothing(tiny: list[str], here: Path) -> None:
    out = succeed(*tiny, "--norm", "l2,linf", "--restarts", "3", "--dry-run")
    assert list(here.iterdir()) == []
    assert "4 cells" in out
    assert "12 images of digits, subset " in out
    assert out.count("tiny-natural l") == out.count("tiny-bcos l") == 2
    # 4 cells of 12 images, 3 restarts of 2 steps forward and backward and a last look.
    # Evidence may cost as much again.
    assert "At most 1,440 forward and backward passes" in out
    assert "At most 720 forward and backward passes" in succeed(
        *tiny, "--norm", "l2,linf", "--restarts", "3", "--dry-run", "--evidence", "off"
    )


@pytest.mark.parametrize(
    ("once", "again"),
    [
        (["--norm", "l2,linf"], ["--norm", "l2", "--norm", "linf"]),
        (["--eps", " 0.1, 8/255,"], ["--eps", "0.1", "--eps", "8/255"]),
        (["--steps", "2,3", "--loss", "ce,dlr"], ["--steps", "2", "--loss", "ce", "--steps", "3", "--loss", "dlr"]),
        (["--attack", "pgd,noise"], ["--attack", "pgd", "--attack", "noise"]),
    ],
)
def test_a_list_may_be_written_with_commas_or_by_repeating(tiny: list[str], once: list[str], again: list[str]) -> None:
    printed = succeed(*tiny, *once, "--dry-run")
    assert printed == succeed(*tiny, *again, "--dry-run")
    assert "2 cells" not in printed


def test_flags_override_a_suite(tiny: list[str]) -> None:
    out = succeed(*tiny, "--suite", "smoke", "--eps", "0.3", "--dry-run")
    assert "4 cells" in out
    assert "12 images" in out
    assert out.count("tiny-bcos linf 0.3 pgd ") == 1
    assert "40 images" in succeed("run", "--suite", "smoke", "--dry-run")


@pytest.mark.parametrize("show", [True, False])
def test_the_live_display_passes_every_step_on(show: bool, tiny_zoo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (cell,) = tiny_request(tiny_zoo, model=("tiny-bcos",), limit=1).cells
    steps = [Progress(cell=cell, images=3), Progress(cell=cell, images=2)]
    assert list(watch(iter(steps), 5, errors if show else None)) == steps
    told = capsys.readouterr()
    assert told.out == ""
    assert bool(told.err) == show


def test_what_goes_to_a_file_is_told_in_lines(tiny_zoo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (cell,) = tiny_request(tiny_zoo, model=("tiny-bcos",), limit=1).cells
    steps = [Progress(cell=cell, images=1, rows=(timing(cell, "attack"),)) for _ in range(40)]
    times = iter([0.0, *(float(second) for second in range(1, 41))])
    assert list(in_lines(iter(steps), 40, errors, lambda: next(times))) == steps
    what = "tiny-bcos l2 0.5 pgd steps=3"
    assert capsys.readouterr().err.splitlines() == [
        f"1 of 40 images, 0:00:39 left: {what}",
        f"11 of 40 images, 0:00:29 left: {what}",
        f"21 of 40 images, 0:00:19 left: {what}",
        f"31 of 40 images, 0:00:09 left: {what}",
        f"40 of 40 images: {what}",
    ]


def test_what_an_attack_is_at_is_told_and_what_was_found_done_says_nothing_of_its_speed(
    tiny_zoo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (cell,) = tiny_request(tiny_zoo, model=("tiny-bcos",), limit=1).cells
    steps = [
        Progress(cell=cell, images=20),
        Progress(cell=cell, images=0, under_way=4.0, stage="square, 4 of 4, 3 of 20 images broken"),
        Progress(cell=cell, images=0, under_way=12.0, stage="square, 4 of 4, 5 of 20 images broken"),
        Progress(cell=cell, images=20, rows=(timing(cell, "attack"),)),
    ]
    times = iter([0.0, 0.0, 10.0, 20.0, 30.0])
    assert list(in_lines(iter(steps), 40, errors, lambda: next(times))) == steps
    what = "tiny-bcos l2 0.5 pgd steps=3"
    assert capsys.readouterr().err.splitlines() == [
        f"20 of 40 images: {what}",
        f"20 of 40 images: {what} (square, 4 of 4, 3 of 20 images broken)",
        # Eight images' worth in twenty seconds, and as much again is left.
        f"20 of 40 images, 0:00:20 left: {what} (square, 4 of 4, 5 of 20 images broken)",
        f"40 of 40 images: {what}",
    ]


def test_a_run_can_be_overwritten(unchecked: list[str]) -> None:
    succeed(*unchecked, "--out", "mine", "--quiet")
    assert "or --overwrite that run" in refusal(*unchecked, "--out", "mine", "--seed", "4")
    succeed(*unchecked, "--out", "mine", "--seed", "4", "--quiet", "--overwrite")
    assert {row["seed"] for row in rows(Path("mine/results.csv"))} == {"4"}


# What is written


def test_a_run_is_a_folder_that_explains_itself(tiny: list[str], tiny_zoo: Path) -> None:
    succeed(*tiny, "--norm", "l2,linf", "--eps", "8/255", "--out", "deep/mine", "--seed", "3")
    folder = Path("deep/mine")
    assert {file.name for file in folder.iterdir()} == {*FILES, "table_l2.csv", "table_linf.csv"}
    written = rows(folder / "results.csv")
    assert [(row["model"], row["norm"]) for row in written] == [(m, n) for m in NAMES for n in ("l2", "linf")]
    assert {row["eps"] for row in written} == {"8/255"}
    assert {row["loss"] for row in written if row["model"] == "tiny-bcos"} == {"bce"}
    description = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert description["identity"]["seed"] == 3
    assert set(description["identity"]["weights"]) == set(NAMES)
    (session,) = description["sessions"]
    assert f"--zoo {tiny_zoo}" in session["command"]
    assert session["configuration"]["eps"] == ["8/255"]
    assert set(session["versions"]) >= {"python", "torch", "numpy"}


def test_explanations_are_a_table_of_their_own_and_pictures_of_the_images_asked_for(tiny_zoo: Path) -> None:
    options = ["--model", "tiny-bcos", "--limit", 5, "--steps", 2, "--explained", 3, "--images", "4", "--out", "mine"]
    out = succeed("run", "--zoo", tiny_zoo, *options)
    assert "explanations.csv" in out
    assert {"explanations.csv", "report.html", "figures"} <= {file.name for file in Path("mine").iterdir()}
    similarities = rows(Path("mine/explanations.csv"))
    assert {row["image"] for row in similarities} == {"0", "1", "2", "4"}
    assert {row["image"] for row in similarities if row["counted"] == "1"} <= {"0", "1", "2"}
    (record,) = rows(Path("mine/results.csv"))
    assert (record["explanation"], record["b"]) == ("dynamic_weights", "2.0")
    assert float(record["explanation_cosine_true_attack"]) < 1
    description = json.loads(Path("mine/run.json").read_text(encoding="utf-8"))
    assert description["identity"]["explained"]["pictured"] == [4]


def test_without_figures_nothing_is_explained_unless_it_is_asked_for(unchecked: list[str]) -> None:
    succeed(*unchecked, "--out", "none")
    succeed(*unchecked, "--explained", 2, "--out", "some")
    names = {folder: {file.name for file in Path(folder).iterdir()} for folder in ("none", "some")}
    assert names["none"] == {*FILES, "table_l2.csv"} - {"evidence.csv", "transfer.csv"}
    assert names["some"] == {*names["none"], "explanations.csv"}


def test_the_same_command_on_a_finished_run_repeats_its_answer(tiny: list[str]) -> None:
    first = succeed(*tiny, "--out", "mine")
    before = Path("mine/results.csv").read_bytes()
    assert succeed(*tiny, "--out", "mine") == first
    assert Path("mine/results.csv").read_bytes() == before
    assert len(json.loads(Path("mine/run.json").read_text(encoding="utf-8"))["sessions"]) == 2


def test_another_configuration_goes_to_another_folder_by_itself(unchecked: list[str], here: Path) -> None:
    for seed in ("0", "1", "0"):
        succeed(*unchecked, "--seed", seed, "--quiet")
    assert len(list((here / "runs").iterdir())) == 2


def test_the_encoded_space_is_named_in_the_row_and_warned_of(tiny_zoo: Path) -> None:
    encoded = ["run", "--zoo", tiny_zoo, "--model", "tiny-bcos", "--limit", 5, "--steps", 1, "--space", "encoded"]
    out = succeed(*encoded, "--no-figures", "--out", "mine")
    assert rows(Path("mine/results.csv"))[0]["space"] == "encoded"
    assert "not a robust accuracy" in out


# Further attacks, evidence, distances


def quiet(*arguments: object) -> list[dict[str, str]]:
    """The rows of a run in the folder ``mine``."""
    succeed(*arguments, "--out", "mine", "--quiet")
    return rows(Path("mine/results.csv"))


def test_square_and_targeted_searches_have_their_options_in_the_row(tiny: list[str]) -> None:
    (square, *_) = quiet(*tiny, "--attack", "square", "--queries", 5, "--evidence", "off")
    assert (square["queries"], square["targets"], square["loss"], square["steps"]) == ("5", "0", "", "0")
    assert int(square["forward_passes"]) <= 5 * int(square["clean_correct"])
    assert square["backward_passes"] == "0"
    aimed = ["--attack", "apgd_targeted", "--targets", 2, "--evidence", "off", "--out", "aimed"]
    succeed(*tiny, *aimed)
    assert {(row["attack"], row["targets"]) for row in rows(Path("aimed/results.csv"))} == {("apgd_targeted", "2")}


def test_a_model_without_a_second_one_is_not_tried_on_its_candidates_and_that_is_said(tiny_zoo: Path) -> None:
    one = ["run", "--zoo", tiny_zoo, "--model", "tiny-natural", "--limit", 6, "--steps", 2, "--no-figures"]
    out = succeed(*one, "--out", "mine")
    (row,) = rows(Path("mine/results.csv"))
    assert row["evidence"] == "quick"
    assert "transfer not done" in row["reasons"].split("; ")
    assert row["trust"] in ("sound", "suspect")
    assert "transfer not done: there is no second model in this run." in out
    assert {file.name for file in Path("mine").iterdir()} == {*FILES, "table_l2.csv"} - {"transfer.csv"}
    (said,) = (line for line in rows(Path("mine/evidence.csv")) if line["check"] == "transfer")
    assert (said["status"], said["sentence"]) == ("not done", "not done: there is no second model in this run")


def test_two_models_are_tried_on_each_others_candidates(tiny: list[str]) -> None:
    written = quiet(*tiny, "--evidence", "quick", "--eps", "0.05")
    assert not any("transfer" in row["reasons"] and "not done" in row["reasons"] for row in written)
    pairs = [(row["source"], row["target"]) for row in rows(Path("mine/transfer.csv"))]
    assert sorted(pairs) == sorted((source, target) for source in NAMES for target in NAMES)
    for row in written:
        assert int(row["worst_correct"]) <= int(row["robust_correct"])
        assert int(row["evidence_passes"]) > 0
        assert int(row["evidence_images"]) > 0
    timings = rows(Path("mine/timings.csv"))
    assert all(float(row["evidence_seconds"]) > 0 for row in timings)


def test_evidence_that_is_not_wanted_leaves_nothing(tiny: list[str]) -> None:
    written = quiet(*tiny, "--evidence", "off")
    assert {(row["trust"], row["reasons"], row["evidence"], row["evidence_passes"]) for row in written} == {
        ("unchecked", "", "off", "0")
    }
    assert {file.name for file in Path("mine").iterdir()} == {*FILES, "table_l2.csv"} - {"evidence.csv", "transfer.csv"}


def test_distances_are_files_of_their_own_and_a_figure(tiny_zoo: Path) -> None:
    asked = ["run", "--zoo", tiny_zoo, "--model", "tiny-bcos", "--limit", 4, "--steps", 2, "--evidence", "off"]
    out = succeed(*asked, "--distances", "--explained", 0, "--out", "mine")
    assert "distances.csv" in out
    assert "curves.csv" in out
    measured = rows(Path("mine/distances.csv"))
    assert len(measured) == 4
    assert all(float(row["low"]) <= float(row["high"] or "inf") for row in measured)
    (curve,) = rows(Path("mine/curves.csv"))
    assert (curve["model"], curve["norm"], curve["images"], curve["up_to"]) == ("tiny-bcos", "l2", "4", "0.5")
    assert "distances_l2.png" in {file.name for file in Path("mine/figures").iterdir()}
    out = succeed("report", "mine", "--figure-format", "pdf")
    assert "as PDF" in out
    assert "distances_l2.pdf" in {file.name for file in Path("mine/figures").iterdir()}
    assert "distances_l2" in Path("mine/report.html").read_text(encoding="utf-8")
    assert float(rows(Path("mine/timings.csv"))[0]["distances_seconds"]) > 0
    description = json.loads(Path("mine/run.json").read_text(encoding="utf-8"))
    assert description["identity"]["distances"] is True


def test_fab_is_one_attack_of_several(tiny_zoo: Path) -> None:
    pytest.importorskip("torchattacks")
    one = ["run", "--zoo", tiny_zoo, "--model", "tiny-natural", "--limit", 5, "--steps", 3, "--no-figures"]
    pgd, fab = quiet(*one, "--attack", "pgd,fab", "--targets", 2, "--evidence", "off")
    assert (pgd["targets"], fab["targets"], fab["loss"], fab["steps"], fab["start"]) == ("0", "2", "", "3", "image")
    assert 0 < int(fab["backward_passes"]) <= 2 * 3 * int(fab["clean_correct"])


@pytest.mark.parametrize("attack", [["fab"], ["apgd_targeted"]], ids=["fab", "targets"])
def test_more_targets_than_wrong_classes_go_on_and_are_said(attack: list[str], tiny_zoo: Path) -> None:
    pytest.importorskip("torchattacks")
    few = ["run", "--zoo", tiny_zoo, "--model", "tiny-bcos", "--limit", 3, "--steps", 1, "--eps", "3", "--no-figures"]
    (within,) = quiet(*few, "--attack", *attack, "--targets", 9)
    assert "targets not done" not in within["reasons"]
    succeed(*few, "--attack", *attack, "--targets", 12, "--out", "more")
    (row,) = rows(Path("more/results.csv"))
    assert "targets not done" in row["reasons"].split("; ")
    assert row["targets"] == "12"
    assert row["robust_correct"] == within["robust_correct"]
    said = {line["check"]: line["sentence"] for line in rows(Path("more/evidence.csv"))}["targets"]
    assert said == "not done: 12 were asked for and there are 9 wrong classes, all are aimed at"


def test_autoattack_without_torchattacks_goes_on_without_fab_and_says_so(
    tiny_zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A radius at which every image falls at once, and a single query is left for those that do not.
    asked = ["run", "--zoo", tiny_zoo, "--model", "tiny-bcos", "--limit", 2, "--eps", "8", "--no-figures"]
    monkeypatch.setitem(sys.modules, "torchattacks", None)
    said = "autoattack goes without fab (it needs torchattacks, pip install torchattacks): its numbers will be marked"
    assert said in " ".join(succeed(*asked, "--attack", "autoattack", "--dry-run").split())
    out = succeed(*asked, "--attack", "autoattack", "--out", "mine")
    (row,) = rows(Path("mine/results.csv"))
    assert "autoattack without fab" in row["reasons"].split("; ")
    assert row["trust"] == "suspect"
    assert "fab not done: it needs torchattacks, pip install torchattacks." in out
    assert (row["attack"], row["steps"], row["queries"], row["targets"]) == ("autoattack", "100", "5000", "9")


@pytest.mark.parametrize(
    ("added", "said"),
    [
        (["--queries", "0"], "queries: input should be greater than or equal to 1, got 0"),
        (["--targets", "0"], "targets: input should be greater than or equal to 1, got 0"),
        (["--criterion", "targeted"], "criterion targeted and target belong together: give both"),
        (["--evidence", "sometimes"], "unknown evidence 'sometimes': choose from "),
        (["--evidence", "quik"], "unknown evidence 'quik': did you mean 'quick'?"),
        (["--attack", "autoatack"], "unknown attack 'autoatack': did you mean 'autoattack'?"),
        (["--distances", "--evidence", ""], "unknown evidence ''"),
    ],
)
def test_options_of_attacks_and_evidence_that_mean_nothing_are_named(
    added: list[str], said: str, tiny: list[str], here: Path
) -> None:
    assert said in refusal(*tiny, *added)
    assert list(here.iterdir()) == []


def test_fab_without_torchattacks_is_refused_before_anything_is_attacked(
    tiny: list[str], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchattacks", None)
    for added in ([], ["--dry-run"]):
        assert refusal(*tiny, "--attack", "pgd,fab", *added) == (
            "FAB needs torchattacks, which is not installed: pip install torchattacks, or choose another attack"
        )
    assert list(here.iterdir()) == []


# Models and images of one's own


def test_ones_own_model_and_images_need_no_card(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    Path("own_nets_of_run.py").write_text(NETS, encoding="utf-8")
    write_colours(here / "colours")
    models = ",".join(f"own_nets_of_run:{name}" for name in ("Pixels", "ready", "Probabilities"))
    options = [
        "--norm",
        "linf",
        "--eps",
        "0,10/255,64/255",
        "--no-figures",
        "--out",
        "mine",
        "--quiet",
        "--skip-model-checks",
        "--evidence",
        "off",
    ]
    succeed("run", "--model", models, "--dataset", f"folder:{here / 'colours'}", *options)
    written = rows(Path("mine/results.csv"))
    assert {(row["family"], row["training"], row["loss"]) for row in written} == {("unknown", "unknown", "ce")}
    assert {row["dataset"] for row in written} == {"folder:colours"}
    # The brightest channel leads by 45, 30 and 15 levels in the images of a class: twice 10 close the last gap alone.
    assert [int(row["robust_correct"]) for row in written if row["model"].endswith("ready")] == [9, 6, 0]
    counts = [[row["robust_correct"] for row in written if row["model"] == name] for name in models.split(",")]
    assert counts[0] == counts[1] == counts[2]


def test_a_checkpoint_is_measured_like_the_zoos_model(tiny_zoo: Path, here: Path) -> None:
    torch.save(load_file(tiny_zoo / "tiny-bcos.safetensors"), here / "mine.pt")
    shared: list[Any] = ["--limit", 12, "--steps", 2, "--no-figures", "--quiet", "--out"]
    succeed("run", "--zoo", tiny_zoo, "--model", "tiny-bcos", *shared, "zoo")
    given = ["--weights", "mine.pt", "--architecture", "bcos_resnet8", "--argument", "temperature=1e-4"]
    succeed("run", *given, *shared, "mine")
    (carded,), (bare,) = rows(Path("zoo/results.csv")), rows(Path("mine/results.csv"))
    assert {key for key in COLUMNS if carded[key] != bare[key]} == {"model", "training", "weights_sha256", "assumed"}
    assert bare["model"] == "mine"
    # A card states everything.
    assert carded["assumed"] == ""
    assert bare["assumed"] == "strides=bcos_resnet8 b=2 norm=batch-uncentred encoding=add_inverse"
    assert int(bare["clean_correct"]) > 0


# Interruptions


@pytest.mark.parametrize("where", ["make_request", "check_model"])
def test_an_interruption_before_the_first_attack_is_no_crash(
    where: str, tiny: list[str], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(requests, where, interrupt)
    assert call(*tiny) == (130, "", "interrupted; repeat the same command to continue\n")
    assert list(here.iterdir()) == []


def test_an_unknown_option_is_helped_by_the_parser() -> None:
    outcome = call("run", "--epsilon", "0.5")
    assert outcome.code == 2
    assert "--epsilon" in outcome.err
    assert "Traceback" not in outcome.err


def test_an_empty_list_is_not_taken_for_the_default(tiny: list[str]) -> None:
    assert refusal(*tiny, "--eps", "") == "--eps is empty: give it a value, or leave it out for its default"
