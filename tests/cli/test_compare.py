"""``compare``: runs and CSVs side by side, on the console and for programs; what cannot be compared is refused."""

import csv
import io
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from robustbench_bcos.bench.records import COLUMNS, SIMILARITY_COLUMNS
from robustbench_bcos.bench.run_files import DATABASE
from robustbench_bcos.reports.comparison import GROUPS, compare
from robustbench_bcos.reports.comparison_formats import FORMATS
from robustbench_bcos.reports.results import read_results
from tests.bench.tiny_zoo import NAMES
from tests.cli.command_line import call, refusal, succeed
from tests.reports.handmade import record, table

Write = Callable[..., str]


@pytest.fixture(scope="module")
def finished(tiny_zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two models on 20 images."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    options = ["--model", ",".join(NAMES), "--limit", 20, "--steps", 2, "--eps", "0.25", "--no-figures", "--quiet"]
    options += ["--evidence", "off"]
    succeed("run", "--zoo", tiny_zoo, *options, "--out", folder)
    return folder


@pytest.fixture
def write(here: Path) -> Write:
    """Rows as a CSV of that name."""

    def written(name: str, *rows: dict[str, Any]) -> str:
        table(*rows).to_csv(here / name, index=False)
        return name

    return written


@pytest.fixture
def three(write: Write) -> str:
    rows = [record("net", 120), record("bcos", 150, family="bcos", b=2.0), record("net", 60, norm="linf")]
    return write("three.csv", *rows)


@pytest.fixture
def repeated(write: Write) -> str:
    counts = {"net": (120, 131, 118), "bcos": (150, 141, 147)}
    return write(
        "repeated.csv", *(record(f"{name}-seed{seed}", n) for name in counts for seed, n in enumerate(counts[name]))
    )


def rows(out: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(out)))


# On the console


def test_models_are_shown_side_by_side_with_what_differs_below(write: Write) -> None:
    out = succeed("compare", write("a.csv", record("net", 120)), write("b.csv", record("bcos", 90, loss="bce")))
    assert "60.0" in out
    assert "45.0" in out
    assert "-15.0" in out
    assert "Differences are to net; p of exact tests, corrected by Holm over 1 row." in out
    assert "loss differs (ce: net; bce: bcos)." in out
    assert "\x1b" not in out


def test_rows_that_are_not_comparable_are_said_to_be_so(write: Write) -> None:
    out = succeed("compare", write("a.csv", record("net", 120), record("bcos", 90, subset="another")))
    assert "Not comparable: subset differs (0123456789ab: net; another: bcos)." in out
    (line,) = [line for line in out.splitlines() if "bcos" in line and "45.0" in line]
    assert "not comparable" in line


def test_names_are_not_taken_for_markup(write: Write) -> None:
    out = succeed("compare", write("a.csv", record("[red]net[/red]", 120), record("[/]", 90, loss="[b]")))
    assert "[red]net[/red]" in out
    assert "[b]: [/]" in out


def test_a_run_knows_its_images_and_its_csv_does_not(finished: Path) -> None:
    by_images = rows(succeed("compare", finished, "--format", "csv"))
    by_counts = rows(succeed("compare", finished / "results.csv", "--format", "csv"))
    assert [row["test"] for row in by_images] == ["", "McNemar"]
    assert [row["test"] for row in by_counts] == ["", "Fisher"]
    assert [row["model"] for row in by_images] == list(NAMES)
    for column in ("threat", "model", "correct", "images", "accuracy", "ci_low", "ci_high", "difference"):
        assert [row[column] for row in by_images] == [row[column] for row in by_counts]


def test_a_table_of_a_run_is_what_the_run_measured(finished: Path, here: Path) -> None:
    folder = shutil.copytree(finished, here / "changed")
    table = folder / "results.csv"
    table.write_text(table.read_text(encoding="utf-8").replace("tiny-natural", "tiny-natutal"), encoding="utf-8")
    remedy = f"{table} is not what its run measured: `report {folder}` writes it again"
    assert refusal("compare", table) == remedy
    # Without its run, it is a table like any other.
    shutil.copy(table, here / "alone.csv")
    succeed("compare", here / "alone.csv")
    succeed("report", folder, "--no-figures")
    succeed("compare", table)


def test_what_the_models_of_a_run_differ_in_is_listed(finished: Path) -> None:
    out = succeed("compare", finished)
    notes = [line.split(" differs ")[0] for line in out.splitlines() if " differs " in line]
    assert notes == ["loss", "architecture", "encoding"]


def test_a_run_is_compared_with_a_csv_of_other_images(finished: Path, write: Write) -> None:
    (first, *_) = read_results(finished).records.to_dict("records")
    changes = {str(key): value for key, value in first.items()} | {"subset": "another", "model": "theirs"}
    out = succeed("compare", finished, write("b.csv", changes))
    assert "Not comparable: subset differs" in out


# For other programs


@pytest.mark.parametrize("style", FORMATS)
def test_a_format_is_all_there_is_on_standard_output(style: str, three: str) -> None:
    outcome = call("compare", three, "--format", style)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out == FORMATS[style](compare([read_results(Path(three))]))


def test_a_csv_is_rectangular_whatever_is_noted(write: Write) -> None:
    out = succeed("compare", write("a.csv", record("a, b", 120), record("b", 1, subset="x")), "--format", "csv")
    assert len(rows(out)) == 2
    assert len({len(line) for line in csv.reader(io.StringIO(out))}) == 1


# Options


def test_rows_are_sorted_by_a_column_upwards_or_downwards(write: Write) -> None:
    file = write("a.csv", *(record(name, count) for name, count in (("b", 90), ("c", 150), ("a", 30), ("d", 90))))
    names = [
        [row["model"] for row in rows(succeed("compare", file, "--format", "csv", *sort))]
        for sort in ([], ["--sort", "accuracy"], ["--sort", "-accuracy"], ["--sort=-model"], ["--sort", "-difference"])
    ]
    # Equal rows stay as they were; the reference has no difference, and what is empty comes last.
    assert names == [list("bcad"), list("abdc"), list("cbda"), list("dcba"), list("cdab")]


def test_a_filter_a_reference_and_a_group_are_passed_on(three: str) -> None:
    out = succeed("compare", three, "--filter", "norm == 'l2'", "--reference", "bcos", "--by", "B", "--format", "csv")
    found = rows(out)
    assert [(row["B"], row["model"]) for row in found] == [("2.0", "bcos"), ("", "net")]
    assert float(found[1]["difference"]) == pytest.approx(-0.15, rel=1e-12)  # rounding


@pytest.mark.parametrize("by", GROUPS)
def test_every_group_is_shown(by: str, three: str) -> None:
    out = succeed("compare", three, "--by", by)
    assert by in out.splitlines()[1]
    assert all(name in out for name in ("net", "bcos"))


def test_a_csv_of_an_older_version_is_compared_by_what_it_has(write: Write, three: str) -> None:
    recent = {"b", "encoding", "explanation", "explained_images", "mean_perturbation", *SIMILARITY_COLUMNS}
    recent |= {name for name in COLUMNS if name.startswith("explanation")}
    old = table(record("old", 90)).drop(columns=sorted(recent))
    old.to_csv("old.csv", index=False)
    assert [row["model"] for row in rows(succeed("compare", "old.csv", "--format", "csv"))] == ["old"]
    out = succeed("compare", three, "old.csv", "--by", "B", "--format", "csv")
    assert {row["model"]: row["B"] for row in rows(out)} == {"net": "", "bcos": "2.0", "old": ""}
    assert "encoding differs" not in succeed("compare", three, "old.csv")


# Trainings


def test_trainings_are_compared_over_seeds(repeated: str) -> None:
    out = succeed("compare", repeated, "--across-seeds")
    assert "Welch" in out
    options = ["--measure", "robust_accuracy_worst", "--format", "csv", "--sort", "-mean"]
    found = rows(succeed("compare", repeated, "--across-seeds", *options))
    assert [(row["recipe"], row["trainings"]) for row in found] == [("bcos", "3"), ("net", "3")]
    assert float(found[0]["mean"]) == pytest.approx(0.73, rel=1e-12)  # rounding


@pytest.mark.parametrize("name", ["deep/violins", "deep/violins.png", "deep/violins.pdf"])
def test_violins_are_written_beside_the_answer_and_not_into_it(name: str, repeated: str) -> None:
    outcome = call("compare", repeated, "--across-seeds", "--format", "csv", "--figure", name)
    assert outcome.code == 0
    assert [row["measure"] for row in rows(outcome.out)] == ["clean_accuracy"] * 2 + ["robust_accuracy_worst"] * 2
    assert "".join(outcome.err.split()) == "Written:deep/violins.png,deep/violins.pdf"
    assert Path("deep/violins.png").read_bytes().startswith(b"\x89PNG")
    assert Path("deep/violins.pdf").read_bytes().startswith(b"%PDF")


def test_curves_over_b_are_written_where_recipes_differ_in_it(write: Write) -> None:
    named = [(f"bcos-b{b:g}-seed{seed}", 90 + seed, b) for b in (1.5, 2.0) for seed in (0, 1)]
    file = write("b.csv", *(record(name, count, b=b) for name, count, b in named))
    outcome = call("compare", file, "--across-seeds", "--measure", "robust_accuracy", "--over-b", "deep/curve.pdf")
    assert outcome.code == 0
    assert "".join(outcome.err.split()) == "Written:deep/curve.png,deep/curve.pdf"
    assert Path("deep/curve.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_that_differs_in_b_is_said_to_be_so(repeated: str) -> None:
    outcome = call("compare", repeated, "--across-seeds", "--over-b", "curve")
    assert outcome.code == 2
    assert "no recipes differ in B alone (names like mine-b1.5 and mine-b2): leave --over-b out" in outcome.err
    assert not Path("curve.png").exists()


@pytest.mark.parametrize("measures", [["clean_accuracy,robust_accuracy"], ["clean_accuracy", "robust_accuracy"]])
def test_measures_are_passed_on(measures: list[str], repeated: str) -> None:
    options = [part for measure in measures for part in ("--measure", measure)]
    found = rows(succeed("compare", repeated, "--across-seeds", "--format", "csv", *options))
    assert [row["measure"] for row in found] == ["clean_accuracy"] * 2 + ["robust_accuracy"] * 2
    said = refusal("compare", repeated, "--across-seeds", "--measure", "clean")
    assert said.startswith("unknown measure 'clean': ")


# Requests that cannot be carried out


@pytest.mark.parametrize(
    ("added", "said"),
    [
        (["--by", "familly"], "unknown group 'familly': did you mean 'family'? choose from B, architecture, "),
        (["--reference", "nett"], "unknown reference 'nett': did you mean 'net'? choose from bcos, net"),
        (["--sort", "acuracy"], "unknown column to sort by 'acuracy': did you mean 'accuracy'?"),
        (["--sort", "-"], "unknown column to sort by '': choose from accuracy, "),
        (["--format", "htm"], "unknown format 'htm': did you mean 'html'? choose from csv, html, latex, markdown"),
        (["--filter", "norm =="], "--filter 'norm ==' cannot be read ("),
        (
            ["--filter", "nrom == 'l2'"],
            "--filter \"nrom == 'l2'\" cannot be read (unknown column 'nrom': did you mean 'norm'",
        ),
        (["--filter", "norm == 'l1'"], "--filter \"norm == 'l1'\" leaves no rows: leave it out to see all"),
        (["--filter", "seed"], "--filter 'seed' "),
        (["--across-seeds"], "no model was trained more than once"),
        (["--across-seeds", "--by", "B"], "--by groups models and --across-seeds trainings: give one of them"),
        (["--figure", "violins.png"], "--figure is for trainings side by side: give --across-seeds too, or leave it"),
        (["--over-b", "b.png"], "--over-b is for trainings side by side: give --across-seeds too, or leave it out"),
        (["--measure", "clean_accuracy"], "--measure is for trainings side by side: give --across-seeds too"),
        (["nothing.csv"], "nothing.csv does not exist: give a run folder, or a CSV that one has written"),
        (["./three.csv"], "three.csv is given twice: give each run once"),
        (["."], ". is not a run: it has no run.json"),
    ],
)
def test_what_means_nothing_is_named(added: list[str], said: str, three: str, here: Path) -> None:
    assert said in refusal("compare", three, *added)
    assert [file.name for file in here.iterdir()] == ["three.csv"]


def test_an_unknown_recipe_is_refused_as_a_reference(repeated: str) -> None:
    said = refusal("compare", repeated, "--across-seeds", "--reference", "nett")
    assert said == "unknown recipe 'nett': did you mean 'net'? choose from bcos, net"


def test_nothing_to_compare_is_helped_by_the_parser() -> None:
    outcome = call("compare")
    assert outcome.code == 2
    assert "RUN" in outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("images", 0),
        ("images", "NaN"),
        ("images", None),
        ("images", "inf"),
        ("worst_correct", 201),
        ("worst_correct", -1),
        ("worst_correct", 12.5),
        ("robust_correct", "many"),
        ("epsilon", "NaN"),
        ("epsilon", "8/255"),
        ("epsilon", "inf"),
        ("step_size", "small"),
        ("steps", None),
        ("steps", "NaN"),
        ("restarts", 1.5),
    ],
)
def test_a_number_that_is_none_is_refused_with_its_row_and_column(column: str, value: object, here: Path) -> None:
    broken = table(record("net", 120), record("bcos", 90)).astype({column: object})
    broken.loc[1, column] = value
    broken.to_csv(here / "a.csv", index=False)
    said = refusal("compare", "a.csv")
    assert said.startswith(f"a.csv, row 2: {column} is ")
    assert "np." not in said


def test_images_that_withstood_must_be_as_many_as_there_are(here: Path) -> None:
    rows = table(record("net", 2, images=3, clean=3), record("bcos", 2, images=3, clean=3))
    rows.assign(survivors=["110", "11"]).to_csv(here / "a.csv", index=False)
    assert refusal("compare", "a.csv").startswith("a.csv, row 2: survivors")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "a.csv cannot be read as CSV ("),
        (
            "epoch,loss\n1,0.5\n",
            "a.csv has no column 'model': it was not written by this tool, or by a version too old",
        ),
        ("{}", "a.csv has no column 'model'"),
        ("a,b\n1,2\n1,2,3,4\n", "a.csv cannot be read as CSV ("),
    ],
    ids=["empty", "another tool's", "JSON", "ragged"],
)
def test_a_file_that_is_something_else_is_refused(content: str, said: str, here: Path) -> None:
    (here / "a.csv").write_text(content, encoding="utf-8")
    assert said in refusal("compare", "a.csv")


def test_a_csv_without_rows_or_with_a_row_twice_is_refused(write: Write) -> None:
    assert refusal("compare", write("a.csv")) == "a.csv has no rows: there is nothing to compare"
    twice = write("b.csv", record("net", 120), record("bcos", 90), record("net", 120))
    assert "rows 1 and 3 are of the same model and attack (net): keep one of them" in refusal("compare", twice)


def test_a_csv_whose_last_line_was_cut_off_is_refused(here: Path, three: str) -> None:
    text = (here / three).read_text(encoding="utf-8").rstrip("\n")
    (here / "cut.csv").write_text(text[: text.rindex(",190,")], encoding="utf-8")
    assert refusal("compare", "cut.csv").startswith("cut.csv, row 3: ")


def test_a_run_in_progress_is_refused(finished: Path, here: Path) -> None:
    shutil.copytree(finished, here / "running")
    with sqlite3.connect(here / "running" / DATABASE) as database:
        # As it is before the first batch of a model is written: rows and their digests are written together.
        database.execute("DELETE FROM verdicts WHERE cell LIKE 'tiny-bcos%'")
        database.execute("DELETE FROM digests WHERE of = 'verdicts' AND subject LIKE 'tiny-bcos%'")
    database.close()
    said = refusal("compare", "running", finished)
    assert said == "running lacks 1 cell: repeat the command that made it to finish"


def test_an_empty_run_is_refused(finished: Path, here: Path) -> None:
    (here / "begun").mkdir()
    shutil.copy(finished / "run.json", here / "begun")
    assert refusal("compare", "begun") == "run begun holds no results yet: repeat the command that made it"


def test_the_table_of_a_comparison_is_read_by_pandas(three: str) -> None:
    found = pd.read_csv(io.StringIO(succeed("compare", three, "--format", "csv")))
    assert found["correct"].tolist() == [120, 150, 60]
