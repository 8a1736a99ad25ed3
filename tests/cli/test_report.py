"""``report``: the table of a run and its files again, from the store alone."""

import json
import os
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from robustbench_bcos.bench import runner
from robustbench_bcos.bench.folder import alone
from tests.bench.tiny_zoo import NAMES
from tests.cli.command_line import call, refusal, succeed

EXPORTS = ("results.csv", "timings.csv", "table_l2.csv", "table_linf.csv")


@pytest.fixture
def command(tiny_zoo: Path) -> list[str]:
    grid = ["--norm", "l2,linf", "--eps", "0.1", "--steps", "1", "--limit", "8", "--no-figures"]
    return ["run", "--zoo", str(tiny_zoo), "--model", ",".join(NAMES), *grid, "--out", "mine"]


def test_a_report_is_what_the_run_printed_and_writes_the_same_files(command: list[str]) -> None:
    # With figures, which a report always draws.
    command.remove("--no-figures")
    printed = succeed(*command, "--explained", 0)
    before = {name: Path("mine", name).read_bytes() for name in EXPORTS}
    for name in EXPORTS:
        Path("mine", name).unlink()
    assert succeed("report", "mine") == printed
    assert {name: Path("mine", name).read_bytes() for name in EXPORTS} == before


def test_a_report_needs_no_models_and_no_data(command: list[str], tiny_zoo: Path, here: Path) -> None:
    zoo = shutil.copytree(tiny_zoo, here / "zoo")
    printed = succeed(*[str(zoo) if part == str(tiny_zoo) else part for part in command])
    shutil.rmtree(zoo)
    assert succeed("report", here / "mine").splitlines()[:-1] == printed.splitlines()[:-1]


def test_cells_that_are_not_complete_are_left_out_and_counted(
    command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    execute = runner.execute

    def stop(*arguments: object) -> object:
        steps = execute(*arguments)  # type: ignore[arg-type]
        # The first four tell of the model and of its clean predictions, and of no attacked image.
        for _ in range(4 + 3):
            yield next(steps)
        raise KeyboardInterrupt

    with monkeypatch.context() as interrupted:
        interrupted.setattr(runner, "execute", stop)
        outcome = call(*command)
    assert (outcome.code, outcome.out) == (130, "")
    # How many there are depends on the number of checks.
    said = r"\ninterrupted after 24 of \d\d images; repeat the same command to continue in mine\n$"
    assert re.search(said, outcome.err)
    out = succeed("report", "mine")
    assert out.startswith("1 of 4 cells are not complete and are left out.\n")
    assert Path("mine/results.csv").read_text(encoding="utf-8").count("\n") == 1 + 3
    assert "not complete" not in succeed(*command)


def test_a_run_without_a_complete_cell_reports_nothing(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> object:
        raise KeyboardInterrupt

    with monkeypatch.context() as interrupted:
        interrupted.setattr(runner, "execute", stop)
        assert call(*command).code == 130
    assert succeed("report", "mine") == "4 of 4 cells are not complete and are left out.\n"
    assert not Path("mine/results.csv").exists()


def test_what_is_not_a_run_is_refused(command: list[str], here: Path) -> None:
    assert "nothere is not a run: it has no run.json" in refusal("report", "nothere")
    assert "is not a run" in refusal("report", here)
    succeed(*command)
    Path("mine/run.sqlite").unlink()
    assert "run mine holds no results yet: repeat the command that made it" in refusal("report", "mine")
    assert not Path("mine/run.sqlite").exists()


def test_cells_of_autoattack_are_written_as_robustbench_has_them(tiny_zoo: Path) -> None:
    run = ["run", "--zoo", tiny_zoo, "--model", "tiny-natural", "--limit", 2, "--attack", "pgd,autoattack"]
    succeed(*run, "--eps", 1, "--evidence", "off", "--no-figures", "--out", "mine")
    out = succeed("report", "mine", "--no-figures", "--robustbench", "theirs", "--zoo", tiny_zoo)
    assert out.splitlines()[:2] == [
        "RobustBench's files: theirs/digits/L2/tiny-natural.json",
        "1 row is of other attacks (pgd) and left out.",
    ]
    found = json.loads(Path("theirs/digits/L2/tiny-natural.json").read_text(encoding="utf-8"))
    rows = pd.read_csv("mine/results.csv")
    robust = rows.loc[rows["attack"] == "autoattack", "robust_accuracy"].item()
    assert (found["eps"], float(found["autoattack_acc"])) == ("1", 100 * robust)


def test_a_run_without_autoattack_has_nothing_for_robustbench(tiny_zoo: Path) -> None:
    run = ["run", "--zoo", tiny_zoo, "--model", "tiny-natural", "--limit", 2, "--steps", 1, "--evidence", "off"]
    succeed(*run, "--norm", "l2,linf", "--eps", "0.1", "--no-figures", "--out", "mine")
    said = refusal("report", "mine", "--robustbench", "theirs")
    assert said.startswith(
        "run mine has nothing for RobustBench's files, which state the accuracy under AutoAttack (2 rows "
    )
    assert said.endswith(": run with --attack autoattack")
    assert not Path("theirs").exists()


def test_a_table_for_a_paper_is_all_that_is_printed_and_nothing_is_written(command: list[str], here: Path) -> None:
    succeed(*command, "--evidence", "off")
    written = {file: file.stat().st_mtime_ns for file in (here / "mine").iterdir()}
    first, _, *lines = succeed("report", "mine", "--format", "markdown").splitlines()
    assert [cell.strip() for cell in first.strip("|").split("|")] == ["model", "clean", "l2 0.1 pgd", "linf 0.1 pgd"]
    assert len([line for line in lines if line.startswith("|")]) == len(NAMES)
    assert all("†" in line for line in lines if line.startswith("|"))
    assert {file: file.stat().st_mtime_ns for file in (here / "mine").iterdir()} == written
    for added in (["--no-figures"], ["--robustbench", "there"], ["--images", "1"]):
        assert refusal("report", "mine", "--format", "latex", *added).startswith("--format latex prints a table")
    assert "unknown format 'latx': did you mean 'latex'" in refusal("report", "mine", "--format", "latx")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def archived(command: list[str], here: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """What is in ``mine``, the folder of a run that may not be written to."""
    succeed(*command, "--evidence", "off", "--norm", "l2")
    before = contents(here / "mine")
    # Permissions do not hold root back, and tests may be run as root.
    access, mine = os.access, here / "mine"
    for file in (*mine.rglob("*"), mine):
        file.chmod(0o555 if file.is_dir() else 0o444)
    monkeypatch.setattr(
        os, "access", lambda path, mode: access(path, mode) and not (mode == os.W_OK and Path(path).samefile(mine))
    )
    return before


def test_an_archived_run_is_reported_to_another_folder(archived: dict[str, bytes], here: Path) -> None:
    assert refusal("report", "mine") == "mine cannot be written: say with --out where the report goes"
    out = succeed("report", "mine", "--out", "there/report")
    assert out.splitlines()[-1].startswith("Written to there/report: results.csv, timings.csv, ")
    written = contents(here / "there/report")
    assert {name for name in archived if name.endswith(".csv")} < written.keys()
    assert all(written[name] == archived[name] for name in written.keys() & archived.keys())
    assert "report.html" in written
    assert any(name.startswith("figures/") for name in written)
    # The same report once more, in other formats: its files are replaced.
    succeed("report", "mine", "--out", "there/report", "--no-figures")
    assert contents(here / "mine") == archived


def test_an_archived_run_is_read(archived: dict[str, bytes], here: Path) -> None:
    assert succeed("report", "mine", "--format", "csv")
    assert succeed("compare", "mine")
    assert succeed("check", "mine", "--baseline", "baseline.csv", "--update")
    assert succeed("check", "mine", "--baseline", "baseline.csv")
    assert contents(here / "mine") == archived


def test_a_run_that_is_at_work_writes_its_report_itself(command: list[str], here: Path) -> None:
    succeed(*command, "--limit", 2, "--evidence", "off")
    Path("mine/results.csv").unlink()
    with alone(Path("mine")):
        for where in ([], ["--out", "mine"]):
            said = refusal("report", "mine", "--no-figures", *where)
            assert said.startswith("run mine is in use by another process: wait for it, or")
        assert not Path("mine/results.csv").exists()
        succeed("report", "mine", "--out", "copy", "--no-figures")
        succeed("report", "mine", "--format", "csv")


def test_a_report_does_not_stand_among_other_files(command: list[str], here: Path) -> None:
    succeed(*command, "--evidence", "off", "--norm", "l2")
    succeed(*command, "--evidence", "off", "--norm", "linf", "--out", "another")
    succeed("report", "mine", "--no-figures", "--out", "mine")
    (here / "paper").mkdir()
    (here / "paper" / "results.csv").write_text("my own")
    for folder in ("paper", "another"):
        before = contents(here / folder)
        assert refusal("report", "mine", "--out", folder).startswith(f"--out {folder} holds other files (")
        assert contents(here / folder) == before
    assert refusal("report", "mine", "--format", "csv", "--out", "there").startswith("--format csv prints a table")
