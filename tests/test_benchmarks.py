"""The benchmarks run, and what they say follows from what they measured."""

import argparse
import importlib
import json
import math
import os
import random
import runpy
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from robustbench_bcos import fold
from robustbench_bcos.attacks import LOSSES
from robustbench_bcos.bench.fast_copy import make_fast_copy
from robustbench_bcos.data.opening import open_dataset
from robustbench_bcos.data.subset import EvalSubset
from robustbench_bcos.model_zoo.architectures import build_architecture
from robustbench_bcos.model_zoo.cards import Zoo
from robustbench_bcos.model_zoo.classifier import freeze
from robustbench_bcos.model_zoo.models import find_models

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Scripts import what lies beside them, and set the number of threads."""
    monkeypatch.syspath_prepend(FOLDER)
    # Where it is set, no script begins again.
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    threads, before = torch.get_num_threads(), set(sys.modules)
    yield
    torch.set_num_threads(threads)
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "").parent == FOLDER:
            del sys.modules[name]


@pytest.fixture
def pairs() -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(FOLDER / "pairs.py")))


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """The line of JSON of a script."""

    def run(script: str, *arguments: str) -> dict[str, Any]:
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        runpy.run_path(str(FOLDER / f"{script}.py"), run_name="__main__")
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
        assert len(lines) == 1
        found: dict[str, Any] = json.loads(lines[0])
        return found

    return run


def test_a_ratio_is_the_median_of_pairs_and_not_the_ratio_of_medians(pairs: SimpleNamespace) -> None:
    # Pairs: 0.5, 3, 0.25. Medians: 3 and 4.
    turns = pairs.Turns([3.0, 3.0, 1.0], [6.0, 1.0, 4.0])
    claim = pairs.Claim.of("work", "peer", turns, 0.5)
    assert (claim.value, claim.spread, claim.pairs, claim.ours_s, claim.theirs_s) == (0.5, (0.25, 3.0), 3, 3.0, 4.0)


@pytest.mark.parametrize(
    ("ratio", "standing", "held"),
    [(0.5, (3, 3), True), (0.5, (2, 3), True), (0.51, (3, 3), False), (0.1, (4, 3), False), (0.1, None, True)],
)
def test_a_promise_is_held_where_the_ratio_is_and_no_more_images_stand(
    pairs: SimpleNamespace, ratio: float, standing: tuple[int, int] | None, held: bool
) -> None:
    turns = pairs.Turns([ratio], [1.0])
    assert pairs.Claim.of("work", "peer", turns, 0.5, standing=standing).held is held
    assert pairs.Claim.of("work", "peer", turns, None, standing=standing).held is None


@pytest.mark.parametrize(("seconds", "expected"), [(1.0, 5), (20.0, 3)])
def test_sides_take_turns_five_times_or_three_where_it_takes_long(
    pairs: SimpleNamespace, seconds: float, expected: int
) -> None:
    clock, order = [0.0], []

    def side(name: str, takes: float) -> None:
        order.append(name)
        clock[0] += takes

    turns = pairs.take_turns(lambda: side("ours", seconds), lambda: side("theirs", 2 * seconds), clock=lambda: clock[0])
    assert "".join(name[0] for name in order) == ("otto" * 3)[: 2 * expected]
    assert turns.ratios == [0.5] * expected


def test_peers_and_ours_fool_the_same_images(said: Callable[..., dict[str, Any]]) -> None:
    pytest.importorskip("torchattacks")
    found = said("attacks", "--quick", "--images", "12", "--steps", "4", "--threads", "1", "--model", "digits-bcos-b2")
    assert [claim["peer"] for claim in found["claims"]] == ["torchattacks", "foolbox", "MadryLab's loop"]
    assert all(claim["worse"] == 0 and claim["ours_s"] > 0 < claim["theirs_s"] for claim in found["claims"])


def test_madrylabs_loop_passes_forward_twice_at_each_step() -> None:
    pytest.importorskip("robustness")
    peers = runpy.run_path(str(FOLDER / "peers.py"))
    passes = 0

    class Counting(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            nonlocal passes
            passes += len(images)
            return images.flatten(1)[:, :3]

    images = torch.full((2, 3, 2, 2), 0.5)
    peers["of_madrylab"](Counting(), images, torch.tensor([0, 1]), "l2", 0.1, 7)
    assert passes == 2 * (2 * (7 + 1))


def test_a_suite_is_carried_out_in_three_ways(said: Callable[..., dict[str, Any]]) -> None:
    found = said("suites", "--quick", "--threads", "1", "--limit", "5")
    assert [claim["peer"] for claim in found["claims"]] == ["torchattacks", "--independent-cells"]
    assert all(claim["worse"] == 0 for claim in found["claims"])


def test_start_up_and_the_wheel_need_no_other_build(said: Callable[..., dict[str, Any]]) -> None:
    first, by_the_clock, to_its_end, mistake, wheel = said("releases", "--quick")["claims"]
    assert {(claim["peer"], claim["target"]) for claim in (first, by_the_clock)} == {("`import torch`", 1.35)}
    assert to_its_end["target"] is None
    # What is sooner is not asked: each is measured once here, beside other tests.
    assert min(to_its_end["ours_s"], to_its_end["theirs_s"], mistake["value"]) > 0
    assert wheel["unit"] == "MB"
    assert 5 < wheel["value"] < 10, "weights are in it, and what a build leaves behind is not"


def test_builds_are_held_against_each_other_by_what_their_commands_take(tmp_path: Path) -> None:
    builds, script = importlib.import_module("builds"), runpy.run_path(str(FOLDER / "releases.py"))
    timings = "cell,attack_seconds,evidence_seconds\none,2.0,1.0\ntwo,6.0,1.0\n"

    def command(build: Path, arguments: Sequence[str]) -> Any:
        slower, folder = (2 if build.name == "old" else 1), Path(arguments[-1])
        if arguments[0] == "run":
            folder.mkdir()
            (folder / "timings.csv").write_text(timings, encoding="utf-8")
            return builds.Spent(10 * slower if "--no-figures" in arguments else 30 * slower**2, 0, 600 * slower)
        if arguments[0] == "report":
            return builds.Spent(3 * slower**3, 0, 0)
        return builds.Spent(7 + slower * int(arguments[arguments.index("--epochs") + 1]), 0, 0)

    script["main"].__globals__["of_command"] = command
    asked = argparse.Namespace(old=tmp_path / "old", quick=False, pairs=None)
    claims = script["with_old"](tmp_path, asked)
    assert [claim.value for claim in claims] == [0.25, 0.25, 0.5, 0.5, 0.25, 0.125, 0.5]
    assert [claim.target for claim in claims] == [0.4, 0.95, 0.7, 0.95, 0.6, 0.35, 0.6]
    assert [claim.pairs for claim in claims] == [1, 1, 1, 3, 1, 3, 3]
    assert claims[2].note == "600 / 1,200 MiB"


def test_what_a_process_takes_is_its_own_and_its_childrens() -> None:
    builds = importlib.import_module("builds")
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'bytearray(200 * 2**20); sum(range(10**7))'])"
    taken = builds.taken_by([sys.executable, "-c", code])
    alone = builds.taken_by([sys.executable, "-c", ""])
    assert taken.peak_mib >= 200
    assert taken.processor > alone.processor + 0.05, "ten million additions"
    with pytest.raises(SystemExit, match="exit status 3"):
        builds.taken_by([sys.executable, "-c", "raise SystemExit(3)"])


def test_another_build_is_passed_on_to_what_is_measured_beside_it() -> None:
    script = runpy.run_path(str(FOLDER / "all.py"))
    asked = {name: script["arguments_of"](name, quick=False, threads=2, old=Path("/old")) for name in script["QUICK"]}
    assert {name for name, options in asked.items() if "--old" in options} == {*script["WITH_OLD"]}
    for name in script["WITH_OLD"]:
        assert asked[name] == ["--old", "/old"]
        assert script["arguments_of"](name, quick=False, threads=2) == []


def test_photographs_are_asked_of_networks_of_the_zoo() -> None:
    script = runpy.run_path(str(FOLDER / "all.py"))
    flags = {"quick": False, "threads": 2}
    for name, special in script["ON_PICTURES"].items():
        asked = script["arguments_of"](name, **flags, pictures=Path("photos"))
        assert asked == ["--threads", "2", "--dataset", "folder:photos", *special]
        models = [after for flag, after in pairwise(asked) if flag == "--model"]
        assert models
        assert all(Zoo().matching(model) for model in models)
    assert script["arguments_of"]("folding", **flags, pictures=Path("photos")) == ["--threads", "2"]
    assert script["arguments_of"]("attacks", **flags) == ["--threads", "2"]


def test_nothing_falls_where_a_run_is_held_against_its_passes(said: Callable[..., dict[str, Any]]) -> None:
    found = said("overhead", "--quick", "--threads", "1", "--random", "none")
    assert [claim["note"] for claim in found["claims"]] == ["", ""]


def test_a_step_on_maps_is_held_against_its_passes(said: Callable[..., dict[str, Any]]) -> None:
    found = said("fooling", "--quick", "--threads", "1", "--architecture", "bcos_resnet8")
    (claim,) = found["claims"]
    assert (claim["target"], claim["claim"]) == (1.1, "bcos_resnet8, away, 2 steps, 2 images of 32x32")


def test_fast_ways_agree_with_the_slow_one(said: Callable[..., dict[str, Any]]) -> None:
    found = said("agreement", "--quick", "--threads", "1", "--model", "digits-bcos-b2")
    ways = [claim["claim"].rpartition(": ")[2] for claim in found["claims"]]
    assert ways == ["as run does", "contiguous", "7 at a time", "64 at a time", "backwards", "two replicas", "bfloat16"]
    assert [claim["held"] for claim in found["claims"]] == [True] * 6 + [None]


def test_what_a_gpu_is_asked_runs_on_a_cpu_and_is_written_down(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["on_device", "--tiny", "--out", str(tmp_path)])
    runpy.run_path(str(FOLDER / "on_device.py"), run_name="__main__")
    found = json.loads((tmp_path / "speed-gpu.json").read_text())
    assert found["skipped"] == []
    work = {claim["claim"]: claim["value"] for claim in found["claims"]}
    assert work["verdicts of the digits zoo"] == 0
    assert {name.partition(",")[0] for name in work} >= {"resnet20", "bcos_resnet20", "explanations"}
    page = (tmp_path / "speed-gpu.md").read_text()
    assert all(name in page for name in work)


def test_a_part_that_fails_leaves_the_others_and_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    parts = importlib.import_module("device_parts")

    def fails(_: object) -> Iterator[object]:
        yield parts.Claim("half", "", 1.0, None)
        raise RuntimeError("out of memory")

    def works(_: object) -> Iterator[object]:
        yield parts.Claim("whole", "", 2.0, None)

    monkeypatch.setattr(parts, "PARTS", (fails, works))
    parts.carry_out(parts.Card("cpu", parts.TINY), tmp_path, until=math.inf)
    found = json.loads((tmp_path / "speed-gpu.json").read_text())
    assert [claim["claim"] for claim in found["claims"]] == ["half", "whole"]
    assert found["skipped"] == ["fails: RuntimeError: out of memory"]
    parts.carry_out(parts.Card("cpu", parts.TINY), tmp_path, until=-math.inf)
    assert "Not measured: works: no time was left" in (tmp_path / "speed-gpu.md").read_text()


def test_a_bare_machine_is_told_what_it_lacks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = runpy.run_path(str(FOLDER / "on_device.py"))
    monkeypatch.setitem(script["main"].__globals__, "find_spec", lambda name: None if name == "sklearn" else name)
    monkeypatch.setattr(sys, "argv", ["on_device", "--list-wheels"])
    script["main"]()
    assert capsys.readouterr().out == "scikit-learn>=1.4\n"


def test_gradients_of_large_networks_are_those_of_the_official_package(said: Callable[..., dict[str, Any]]) -> None:
    pytest.importorskip("bcos")
    found = said("large", "--quick", "--threads", "1")
    assert [claim["target"] for claim in found["claims"]] == [0.45, 0.65]
    assert all(claim["ours_s"] > 0 < claim["theirs_s"] for claim in found["claims"])


def test_explanations_are_those_of_the_official_package_and_are_timed_beside_it(
    said: Callable[..., dict[str, Any]],
) -> None:
    pytest.importorskip("bcos")
    found = said("explaining", "--quick", "--threads", "1")
    timed = {(claim["claim"].split(",")[0], claim["peer"]) for claim in found["claims"]}
    ours = ("explain(model)", "explain(fold(model))", "its convolutions alone")
    assert timed == {(name, "bcos, one at a time") for name in ours}
    assert all(claim["ours_s"] > 0 < claim["theirs_s"] for claim in found["claims"])


def test_grids_are_scored_as_by_the_official_package_class_by_class(
    said: Callable[..., dict[str, Any]],
) -> None:
    pytest.importorskip("bcos")
    found = said("localising", "--quick", "--threads", "1")
    ours, bound, *of_the_processor = found["claims"]
    assert {claim["peer"] for claim in (ours, bound)} == {"bcos, one class at a time, 1 thread"}
    assert {claim["peer"] for claim in of_the_processor} == {"bcos, one class at a time, processor, 1 thread"}
    assert ours["note"].startswith("scores differ by ")
    assert "convolutions alone" in bound["claim"]


def test_the_published_attack_is_the_common_loss_in_encoded_space() -> None:
    pytest.importorskip("robustness")
    script = runpy.run_path(str(FOLDER / "reproduction.py"))
    logits, labels = torch.tensor([[20.0, -3.0, -3.0], [2.0, 1.0, -1.0]]).requires_grad_(), torch.tensor([0, 1])
    losses = script["common_bce"](logits, labels)
    torch.testing.assert_close(losses.double(), LOSSES["bce"](logits, labels), rtol=1e-5, atol=1e-7)
    (slope,) = torch.autograd.grad(losses.sum(), logits)
    assert slope[0, 0] == 0, "which is what the harness is there to avoid"
    model = make_fast_copy(find_models("digits-bcos-b2", Zoo())[0].load())
    batch = EvalSubset.of(open_dataset("digits", "test")).batch(0, 12)
    standing = [script["attack_as_published"](model, batch, "l2", epsilon, 3) for epsilon in (0.0, 0.5, 3.0)]
    assert standing[0] == 12 > standing[1] > standing[2]


def test_what_was_measured_on_other_images_is_not_taken_over(tmp_path: Path) -> None:
    pytest.importorskip("robustness")
    script = runpy.run_path(str(FOLDER / "reproduction.py"))
    script["measure_as_published"].__globals__["attack_as_published"] = lambda *_: 1
    options = argparse.Namespace(
        dataset="digits", data_dir=None, zoo=[], out=tmp_path, limit=4, compile=False, steps=[20]
    )
    first = script["measure_as_published"]("digits-natural", options)
    assert first[["steps", "correct"]].to_numpy().tolist() == [[20, 1]] * 6
    options.steps = [20, 100]
    assert script["measure_as_published"]("digits-natural", options)["correct"].tolist() == [1] * 12
    # Continued, not measured again.
    script["measure_as_published"].__globals__["attack_as_published"] = lambda *_: 2
    assert script["measure_as_published"]("digits-natural", options)["correct"].tolist() == [1] * 12
    options.limit = 5
    with pytest.raises(SystemExit, match="is of other images: choose another folder"):
        script["measure_as_published"]("digits-natural", options)


def test_sure_networks_blind_the_common_loss_and_not_the_margin() -> None:
    pytest.importorskip("robustness")
    script = runpy.run_path(str(FOLDER / "saturation.py"))
    options = argparse.Namespace(dataset="digits", data_dir=None, zoo=[], norm="l2", eps=1.0, steps=5)
    chosen = script["right_images"](script["find_model"]("digits-bcos-b2", options), options, 24)
    options.factor = [1.0, 16.0]
    _, _, plain, sure = script["lines"](chosen._replace(model=make_fast_copy(chosen.model)), options)
    (logit, common, bce, margin), (logit_sure, common_sure, bce_sure, margin_sure) = (
        [float(cell) for cell in line.split("|")[2:-1]] for line in (plain, sure)
    )
    assert logit_sure == pytest.approx(16 * logit, abs=1)  # printed with one decimal
    assert common == pytest.approx(bce, abs=1)
    assert common_sure > 2 * common
    assert bce_sure < common_sure
    assert margin_sure == margin < 24


def test_ways_stand_below_each_other_and_steps_side_by_side() -> None:
    script = runpy.run_path(str(FOLDER / "reproduction.py"))
    rows = pd.DataFrame({"norm": "l2", "eps": ["2", "2", "10", "10"], "steps": [100, 20] * 2, "images": 4})
    rows["correct"] = [1, 2, 0, 0]
    other = pd.DataFrame({"norm": "linf", "eps": "8/255", "steps": [20, 100], "correct": 4, "images": 4})
    found = {("one", "image"): pd.concat([rows, other])}
    assert list(script["tabulate"](found, "l2", [20, 100])) == [
        "| model | way | l2 2 | l2 10 |",
        "|---|---|---|---|",
        "| `one` | image | 50.0 [15.0, 85.0] / 25.0 [4.6, 69.9] | 0.0 [0.0, 49.0] / 0.0 [0.0, 49.0] |",
    ]
    assert list(script["tabulate"](found, "linf", [100]))[-1] == "| `one` | image | 100.0 [51.0, 100.0] |"


def test_growth_is_the_slope_in_log_log() -> None:
    growth = runpy.run_path(str(FOLDER / "growth.py"))["Growth"]
    # Twice as much takes 2 ** 1.5 times as long.
    assert growth([1.0, 2.0, 4.0], [3.0, 3.0 * 2**1.5, 3.0 * 4**1.5]).slope == pytest.approx(1.5, rel=1e-12)


def test_all_of_them_end_in_one_file_and_one_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    claim = '{"claims": [{"claim": "work", "peer": "peer", "value": 0.25, "target": 0.1, "held": false}]}'
    (tmp_path / "speaks.py").write_text(f"print('a table')\nprint('{claim}')\n", encoding="utf-8")
    (tmp_path / "fails.py").write_text("raise SystemExit('no')\n", encoding="utf-8")
    script = runpy.run_path(str(FOLDER / "all.py"))
    monkeypatch.setitem(script["main"].__globals__, "HERE", tmp_path)
    monkeypatch.setattr(sys, "argv", ["all", "--only", "speaks,fails", "--out", str(tmp_path / "out.json")])
    with pytest.raises(SystemExit, match="failed: fails"):
        script["main"]()
    written = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert written["results"] == {"speaks": [json.loads(claim)]}
    assert {"processor", "cores", "versions"} <= written.keys()
    printed = capsys.readouterr()
    assert "--old" not in printed.err, "nothing was left out of these"
    row = next(line for line in printed.out.splitlines() if "work" in line and "0.25" in line)
    assert "0.1" in row
    assert "NO" in row


def test_what_is_killed_and_repeated_ends_as_if_nothing_had_happened() -> None:
    # In a process of its own, which may fork: one that has computed gradients may not.
    script = [sys.executable, str(FOLDER / "faults.py"), "--quick", "--only", "kills of fetch,kills of train"]
    environment = os.environ | {"PYTHONPATH": str(FOLDER.parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(script, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("{")]
    claims = json.loads(line)["claims"]
    assert [(claim["claim"], claim["note"]) for claim in claims] == [
        ("kills of fetch", "2 tried"),
        ("kills of train", "1 tried"),
    ]
    assert all(claim["held"] for claim in claims)


def test_faults_are_counted_and_close_the_claim(tmp_path: Path) -> None:
    script = runpy.run_path(str(FOLDER / "faults.py"))
    faults, ended = script["Faults"](tmp_path, seed=0), script["Ended"]
    faults.add("damages of a", "one", ended(0, "", ""), silently_different=True, executed=False)
    faults.add("damages of b", "two", ended(2, "", "error: no"), another_value=True)
    for crashed in (ended(1, "", "Traceback (most recent call last)"), ended(-11, "", ""), ended(0, "\x1b]0;", "")):
        faults.add("damages of b", "three", crashed)
    assert script["_claim"](faults, "damages", 1000)[2] == 4
    assert faults.sum_of("damages") == {
        "tries": 5,
        "refused": 1,
        "silently different": 1,
        "another value": 1,
        "tracebacks": 3,
    }
    assert len(faults.said) == 4


def test_every_damage_is_one() -> None:
    script = runpy.run_path(str(FOLDER / "damages.py"))
    content = b'name = "a"\nb,word,1\n' * 30
    made = [script["damaged"](content, number, random.Random(number)) for number in range(900)]
    assert content not in made
    assert len(set(made)) > 500


def test_every_script_is_part_of_all() -> None:
    script = runpy.run_path(str(FOLDER / "all.py"))
    # What reproduces published tables needs their data, a device, other machines or another library.
    shared = {
        "all",
        "builds",
        "cluster",
        "honest_rows",
        "minimal_norms",
        "pairs",
        "forks",
        "damages",
        "device_parts",
        "on_device",
        "peers",
        "subjects",
        "reproduction",
        "saturation",
        "known_answers",
    }
    assert {file.stem for file in FOLDER.glob("*.py")} - shared == set(script["QUICK"])


def test_the_floor_is_the_work_of_all_convolutions_forward_and_back() -> None:
    pytest.importorskip("bcos")
    convolutions = runpy.run_path(str(FOLDER / "folding.py"))["convolutions"]
    network = freeze(build_architecture("resnet20", in_channels=3, classes=10, arguments={}))
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    floor = convolutions(network, images)
    with FlopCounterMode(display=False) as alone:
        floor()
    with FlopCounterMode(display=False) as gradient:
        network(images.requires_grad_()).sum().backward()
    for operation in (torch.ops.aten.convolution, torch.ops.aten.convolution_backward):
        counted = alone.get_flop_counts()["Global"]
        assert counted[operation] == gradient.get_flop_counts()["Global"][operation] > 0


def test_a_network_without_convolutions_of_its_own_has_no_floor() -> None:
    pytest.importorskip("bcos")
    folded = fold(freeze(build_architecture("bcos_resnet20", in_channels=6, classes=10, arguments={})))
    convolutions = runpy.run_path(str(FOLDER / "folding.py"))["convolutions"]
    with pytest.raises(ValueError, match=r"^a network without convolutions of its own$"):
        convolutions(folded, torch.zeros(2, 6, 32, 32))


def test_verdicts_of_two_builds_are_compared_image_by_image(
    said: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Image 1 is misclassified, in one of them before any attack."""
    ours: dict[str, Any] = {"clean": (0, 5, 2, 3), "attacked": {0: 0, 2: 2, 3: 3}}
    theirs = {"clean": (0, 1, 2, 3), "attacked": {0: 0, 1: 7, 2: 2, 3: 3}}

    def carried_out(build: Path, *arguments: str) -> None:
        run = Path(arguments[arguments.index("--out") + 1])
        run.mkdir()
        (run / "results.csv").write_text("model,version\ndigits-natural,0.2.0\n")
        found: dict[str, Any] = theirs if build == tmp_path else ours
        with closing(sqlite3.connect(run / "run.sqlite")) as database:
            database.execute("CREATE TABLE clean (model, image, label, prediction)")
            database.execute("CREATE TABLE verdicts (cell, image, prediction)")
            for image, prediction in enumerate(found["clean"]):
                database.execute("INSERT INTO clean VALUES ('digits-natural', ?, ?, ?)", (image, image, prediction))
            for row in found["attacked"].items():
                database.execute("INSERT INTO verdicts VALUES ('digits-natural l2 0.5 any', ?, ?)", row)
            database.commit()

    monkeypatch.setattr(importlib.import_module("builds"), "command", carried_out)
    found = said("same_verdicts", "--old", str(tmp_path), "--quick")
    assert {(claim["peer"], claim["value"], claim["note"]) for claim in found["claims"]} == {
        ("0.2.0", 0, "3 / 3 of 4 images robust")
    }
    assert len(found["claims"]) == 2 * 5
    ours["attacked"][2] = 9
    with pytest.raises(SystemExit, match="10 verdicts differ"):
        said("same_verdicts", "--old", str(tmp_path), "--quick")
