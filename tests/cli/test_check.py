"""``check``: a run is held against a baseline, from the command that made it to the exit status that a CI sees."""

import json
import os
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import pytest
import tomli_w
import torch
from safetensors.torch import load_file, save_file

from robustbench_bcos.bench.folder import open_run
from robustbench_bcos.bench.records import COLUMNS
from robustbench_bcos.bench.run_files import DATABASE
from robustbench_bcos.bench.runner import execute
from robustbench_bcos.bench.store import Store
from robustbench_bcos.model_zoo.digests import sha256_of
from tests.bench.tiny_zoo import NAMES, tiny_request
from tests.cli.command_line import Outcome, call, refusal, succeed

SMALL = "--limit 40 --steps 3 --evidence off --no-figures --quiet".split()
FIRST_VERSION = COLUMNS[: COLUMNS.index("version") + 1]
"""Columns of 0.1.0."""


@pytest.fixture(autouse=True)
def no_workflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests may themselves run in a workflow."""
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)


def attack(zoo: Path, out: Path, *options: object, models: str = ",".join(NAMES), eps: str = "8/255,0.25") -> Path:
    succeed("run", "--zoo", zoo, "--model", models, "--eps", eps, *SMALL, "--out", out, *options)
    return out


@pytest.fixture(scope="module")
def run(tiny_zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return attack(tiny_zoo, tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def baseline(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("baselines") / "tiny.csv"
    succeed("check", run, "--baseline", file, "--update")
    return file


@pytest.fixture(scope="module")
def regressed(tiny_zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same command after one logit of one model was raised."""
    zoo = tmp_path_factory.mktemp("nudged") / "zoo"
    shutil.copytree(tiny_zoo, zoo)
    nudge(zoo, "tiny-natural")
    return attack(zoo, zoo.parent / "run")


def nudge(zoo: Path, model: str) -> None:
    """Raise the logit of one class, and give the card its new digest."""
    card, file = zoo / f"{model}.toml", zoo / f"{model}.safetensors"
    weights = load_file(file)
    weights["fc.bias"][3] += 3
    save_file(weights, file)
    content = tomllib.loads(card.read_text(encoding="utf-8"))
    content["weights"]["sha256"] = sha256_of(file)
    card.write_text(tomli_w.dumps(content), encoding="utf-8")


@pytest.fixture
def changed(run: Path, here: Path) -> Callable[..., Path]:
    """The CSV of the run with a change made to its table."""

    def write(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Path:
        file = here / "changed.csv"
        change(pd.read_csv(run / "results.csv", dtype=str, keep_default_na=False)).to_csv(file, index=False)
        return file

    return write


def failures(file: Path) -> list[str | None]:
    suite = ElementTree.fromstring(file.read_bytes())
    failed = [case for case in suite.findall("testcase") if case.find("failure") is not None]
    assert suite.get("failures") == str(len(failed))
    return [case.get("name") for case in failed]


# What holds


def test_update_writes_a_baseline_and_its_birth_certificate_and_compares_nothing(run: Path, here: Path) -> None:
    out = succeed("check", run, "--baseline", "new/tiny.csv", "--update")
    assert out == "Written: new/tiny.csv, new/tiny.csv.birth.json\nTrust: unchecked (†).\n"
    written = pd.read_csv(here / "new/tiny.csv", dtype=str)
    assert [len(bits) for bits in written["survivors"]] == [40] * 4
    assert [bits.count("1") for bits in written["survivors"]] == written["robust_correct"].astype(int).tolist()
    birth = json.loads((here / "new/tiny.csv.birth.json").read_text(encoding="utf-8"))
    assert birth["command"].startswith("robustbench_bcos run --zoo")
    assert {"torch", "numpy", "python"} <= set(birth["versions"])
    assert "commit" in birth
    assert set(birth["weights"]) == set(NAMES)
    assert birth["subset"].startswith(written["subset"][0])
    assert (birth["dataset"], birth["images"], birth["seed"]) == ("digits", 40, 0)


def test_a_run_holds_against_itself(run: Path, baseline: Path) -> None:
    out = succeed("check", run, "--baseline", baseline)
    assert out.splitlines()[-1] == "gate open: 4 held"
    assert all(name in out for name in NAMES)
    assert "\x1b" not in out


@pytest.mark.parametrize("options", [["--batch-size", "7"], ["--threads", "2"]])
def test_a_run_in_other_batches_or_threads_holds(
    options: list[str], tiny_zoo: Path, baseline: Path, here: Path
) -> None:
    threads = torch.get_num_threads()
    try:
        again = attack(tiny_zoo, here / "again", *options)
    finally:
        torch.set_num_threads(threads)
    assert "4 held" in succeed("check", again, "--baseline", baseline, "--alpha", "0.05", "--gate", "clean_accuracy")
    assert "4 held" in succeed("check", again, "--baseline", baseline, "--both-ways")


def test_runs_and_csvs_may_stand_on_either_side(run: Path, baseline: Path) -> None:
    for one in (run, run / "results.csv", baseline):
        for other in (run, run / "results.csv", baseline):
            assert "gate open: 4 held" in succeed("check", one, "--baseline", other)


def test_the_same_epsilon_in_another_notation_is_recognised(tiny_zoo: Path, baseline: Path, here: Path) -> None:
    again = attack(tiny_zoo, here / "again", eps="0.0313725,1/4")
    # The radii differ in the seventh digit, the images that withstand do not.
    assert "gate open: 4 held" in succeed("check", again, "--baseline", baseline)


def test_a_baseline_of_the_first_version_is_understood(run: Path, changed: Callable[..., Path]) -> None:
    old = changed(lambda rows: rows[list(FIRST_VERSION)])
    assert "gate open: 4 held" in succeed("check", run, "--baseline", old, "--alpha", "0.05")


# What does not


def test_a_planted_regression_closes_the_gate(regressed: Path, baseline: Path) -> None:
    outcome = call("check", regressed, "--baseline", baseline)
    assert (outcome.code, outcome.err) == (1, "")
    lines = outcome.out.splitlines()
    assert lines[-1].startswith("gate closed: ")
    assert "Another weights than in the baseline: tiny-natural." in outcome.out
    rows = [line for line in lines if "tiny-" in line and "│" in line]
    assert len(rows) == 4
    assert "regressed" in rows[0]
    assert "tiny-natural" in rows[0]
    assert not any("regressed" in row for row in rows if "tiny-bcos" in row)


def test_a_regression_is_significant_and_may_be_tolerated(regressed: Path, baseline: Path) -> None:
    at_a_level = call("check", regressed, "--baseline", baseline, "--alpha", "0.05")
    assert at_a_level.code == 1
    assert " p " in at_a_level.out
    tolerated = succeed("check", regressed, "--baseline", baseline, "--tolerance", "0flips,tiny-nat*=100points")
    assert "gate open" in tolerated
    assert call("check", regressed, "--baseline", baseline, "--tolerance", "100points,tiny-nat*=1flip").code == 1


@pytest.mark.parametrize(("flips", "code"), [(0, 0), (1, 1)])
def test_an_image_of_forty_is_more_than_half_a_point(
    flips: int, code: int, run: Path, changed: Callable[..., Path]
) -> None:
    def lose(rows: pd.DataFrame) -> pd.DataFrame:
        return rows.assign(worst_correct=rows["worst_correct"].astype(int) + flips)

    assert call("check", run, "--baseline", changed(lose)).code == code
    assert call("check", run, "--baseline", changed(lose), "--tolerance", "1flip").code == 0


def test_improvements_close_the_gate_only_both_ways(run: Path, regressed: Path) -> None:
    assert "improved" in succeed("check", run, "--baseline", regressed)
    assert call("check", run, "--baseline", regressed, "--both-ways").code == 1


def test_missing_and_extra_rows_close_the_gate(run: Path, changed: Callable[..., Path]) -> None:
    fewer = changed(lambda rows: rows.iloc[1:])
    assert call("check", run, "--baseline", fewer).out.splitlines()[-1] == "gate closed: 1 extra, 3 held"
    assert call("check", fewer, "--baseline", run).out.splitlines()[-1] == "gate closed: 1 missing, 3 held"


def test_explanations_are_gated_where_they_were_measured(tiny_zoo: Path, here: Path) -> None:
    column = "explanation_cosine_true_attack"
    options = ["--limit", 8, "--explained", 4]
    explained = attack(tiny_zoo, here / "explained", *options, models="tiny-bcos", eps="0.25")
    succeed("check", explained, "--baseline", "explained.csv", "--update")
    gated = ["--gate", f"{column},robust_accuracy_worst"]
    assert "held" in succeed("check", explained, "--baseline", "explained.csv", *gated)
    rows = pd.read_csv("explained.csv", dtype=str, keep_default_na=False)
    rows.assign(**{column: rows[column].astype(float) + 0.1}).to_csv("higher.csv", index=False)
    outcome = call("check", explained, "--baseline", "higher.csv", *gated)
    assert outcome.code == 1
    assert column in next(line for line in outcome.out.splitlines() if "regressed" in line)


# Machines


def test_junit_names_what_failed(regressed: Path, baseline: Path, here: Path) -> None:
    outcome = call("check", regressed, "--baseline", baseline, "--junit", "gate.xml")
    assert outcome.code == 1
    names = failures(here / "gate.xml")
    assert names
    assert all(name is not None and name.startswith("tiny-natural pgd l2") for name in names)


def test_junit_of_what_holds_has_no_failures(run: Path, baseline: Path, here: Path) -> None:
    succeed("check", run, "--baseline", baseline, "--junit", "gate.xml")
    assert failures(here / "gate.xml") == []


@pytest.mark.parametrize("workflow", [True, False])
def test_json_stands_on_standard_output_alone(
    workflow: bool, regressed: Path, baseline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if workflow:
        monkeypatch.setenv("GITHUB_ACTIONS", "true")
    outcome = call("check", regressed, "--baseline", baseline, "--json", "--alpha", "0.05")
    content = json.loads(outcome.out)
    assert outcome.code == 1
    assert content["passed"] is False
    assert len(content["rows"]) == 4
    assert all(0 <= row["p"] <= 1 for row in content["rows"])
    assert bool(outcome.err) is workflow


def test_in_a_workflow_what_failed_is_annotated_and_summarised(
    regressed: Path, baseline: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = here / "summary.md"
    summary.write_text("Of an earlier step.\n", encoding="utf-8")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    outside = call("check", regressed, "--baseline", baseline)
    assert (outside.code, outside.err) == (1, "")
    assert summary.read_text(encoding="utf-8") == "Of an earlier step.\n"

    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    inside = call("check", regressed, "--baseline", baseline)
    assert (inside.code, inside.out) == (1, outside.out)
    lines = inside.err.splitlines()
    assert lines
    assert all(line.startswith("::error title=regressed%3A tiny-natural") for line in lines)
    text = summary.read_text(encoding="utf-8")
    assert text.startswith("Of an earlier step.\n### gate closed: ")
    assert text.count("| regressed |") == len(lines)
    assert text.endswith(" |\n")


def test_in_a_workflow_what_holds_is_summarised_and_not_annotated(
    run: Path, baseline: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    assert call("check", run, "--baseline", baseline).err == ""
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(here / "summary.md"))
    assert call("check", run, "--baseline", baseline).err == ""
    assert "gate open: 4 held" in (here / "summary.md").read_text(encoding="utf-8")


# What cannot be compared


def refused(*arguments: object) -> str:
    """A refusal that leaves no file behind."""
    before = sorted(Path().rglob("*"))
    said = refusal("check", *arguments)
    assert sorted(Path().rglob("*")) == before
    return said


def without(column: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return lambda rows: rows.drop(columns=column)


def with_value(column: str, value: Any) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return lambda rows: rows.assign(**{column: [*rows[column][:-1], value]})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: rows[["model", "robust_accuracy"]], "has no column 'dataset'"),
        (without("worst_correct"), "has no column 'worst_correct'"),
        (without("subset"), "has no column 'subset'"),
        (lambda rows: pd.concat([rows, rows[1:2]]), "rows 2 and 5 are of the same model and attack"),
        (with_value("worst_correct", "NaN"), "row 4: worst_correct is"),
        (with_value("worst_correct", ""), "row 4: worst_correct is"),
        (with_value("worst_correct", "inf"), "row 4: worst_correct is"),
        (with_value("robust_correct", "most"), "row 4: robust_correct is"),
        (with_value("epsilon", "NaN"), "row 4: epsilon is"),
        (with_value("step_size", "small"), "row 4: step_size is"),
        (with_value("subset", "ba9876543210"), "were measured on other images (subset "),
        (with_value("images", "41"), "were measured on other images (images "),
        (lambda rows: rows[:0], "has no rows: there is nothing to compare"),
        (lambda rows: rows.assign(model="another"), "have no row in common"),
        (lambda rows: rows.assign(dataset="folder:another"), "have no row in common"),
    ],
)
def test_a_csv_that_cannot_be_compared_is_refused_on_either_side(
    change: Callable[[pd.DataFrame], pd.DataFrame], said: str, run: Path, changed: Callable[..., Path]
) -> None:
    file = changed(change)
    assert said in refused(run, "--baseline", file)
    assert said in refused(file, "--baseline", run)


def test_another_slice_is_refused(tiny_zoo: Path, baseline: Path, here: Path) -> None:
    fewer = attack(tiny_zoo, here / "fewer", "--limit", 12, models="tiny-natural")
    said = refused(fewer, "--baseline", baseline)
    assert "were measured on other images (subset " in said
    assert "--update" in said


def test_a_run_that_is_not_finished_is_refused(tiny_zoo: Path, baseline: Path, here: Path) -> None:
    # Four batches at a time: twelve of thirty images; of one model after the other, so that none is ahead.
    request = tiny_request(tiny_zoo, batch_size=3, jobs=1)
    folder = here / "unfinished"
    with open_run(folder, request.identity, request.describe()), Store(folder / DATABASE) as store:
        steps = execute(request, store)
        for images in ("none", "twelve", "twenty-four"):
            if images != "none":
                next(steps)
            # The run is in progress: its process holds the folder and has the database open.
            for arguments in ([folder, "--baseline", baseline], [baseline, "--baseline", folder]):
                assert "lacks 2 cells" in refused(*arguments)
            assert "lacks 2 cells" in refused(folder, "--baseline", "new.csv", "--update")


def test_paths_that_lead_to_no_results_are_refused(run: Path, baseline: Path, here: Path) -> None:
    (here / "empty.csv").touch()
    (here / "folder").mkdir()
    for path, said in (
        ("nothing", "nothing does not exist"),
        ("empty.csv", "empty.csv cannot be read as CSV"),
        ("folder", "folder is not a run"),
        (run / "run.json", "cannot be read as CSV"),
        (run / DATABASE, "cannot be read as CSV"),
    ):
        assert said in refused(path, "--baseline", baseline)
        assert said in refused(run, "--baseline", path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--tolerance", "2"], "--tolerance 2 must be like 2flips"),
        (["--tolerance", ""], "--tolerance is empty"),
        (["--alpha", "0"], "--alpha 0.0 must be between 0 and 1"),
        (["--alpha", "1"], "must be between 0 and 1"),
        (["--alpha", "nan"], "must be between 0 and 1"),
        (["--gate", "robust_acuracy"], "did you mean 'robust_accuracy'?"),
        (["--gate", "trust"], "unknown column to gate 'trust'"),
        (["--gate", "explanation_cosine_true_attack"], "repeat its run without --no-figures"),
        (["--junit", "missing/gate.xml"], "missing cannot be written"),
    ],
)
def test_options_that_cannot_be_met_are_refused(options: list[str], said: str, run: Path, baseline: Path) -> None:
    assert said in refused(run, "--baseline", baseline, *options)


def test_a_baseline_is_made_of_a_run_and_goes_to_a_file(run: Path, here: Path) -> None:
    assert "is a CSV: give the run folder" in refused(run / "results.csv", "--baseline", "new.csv", "--update")
    assert "is a folder" in refused(run, "--baseline", here, "--update")


def test_a_summary_that_cannot_be_written_is_no_crash(
    run: Path, baseline: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", os.fspath(here / "missing" / "summary.md"))
    outcome: Outcome = call("check", run, "--baseline", baseline)
    assert outcome.code == 2
    assert outcome.err.startswith("error: ")
    assert "cannot be written" in outcome.err
