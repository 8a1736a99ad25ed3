"""Results of run folders and of CSVs: what is read, what is recognised as the same, and what is refused."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from robustbench_bcos.attacks.searches.noise import Noise
from robustbench_bcos.attacks.searches.pgd import PGD
from robustbench_bcos.attacks.threat import Threat
from robustbench_bcos.bench.cells import Cell
from robustbench_bcos.bench.folder import open_run
from robustbench_bcos.bench.records import COLUMNS, SIMILARITY_COLUMNS
from robustbench_bcos.bench.run_files import CONFIGURATION, DATABASE
from robustbench_bcos.bench.store import Store
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.reports.results import KEY, NEEDED, SURVIVORS, keys_of, read_results
from tests.bench.by_hand import SESSION, clean_row, identity_of, model_row, not_attacked, verdict_row
from tests.reports.handmade import TOTAL, record, results_of, table

FIRST_VERSION = COLUMNS[: COLUMNS.index("version") + 1]
"""Columns of 0.1.0."""

CELL = Cell(
    model="a",
    threat=Threat.of("l2", "0.5"),
    attack=PGD(steps=20, loss="auto"),
    criterion="misclassified",
    space="image",
)


def write_run(folder: Path, outcomes: Mapping[Cell, Sequence[bool | None]], *, images: int = 5) -> Path:
    """A run of given verdicts: robust, fallen, or, for ``None``, wrong from the start; further images are missing."""
    weights = {cell.model: "cd" * 32 for cell in outcomes}
    identity = identity_of(*outcomes, weights=weights, images=images, subset="0123456789ab" + "0" * 52, seed=3)
    with open_run(folder, identity, SESSION), Store(folder / DATABASE) as store:
        for cell, verdicts in outcomes.items():
            _fill(store, cell, verdicts)
    return folder


def _fill(store: Store, cell: Cell, verdicts: Sequence[bool | None]) -> None:
    store.add(model_row(name=cell.model, parameters=77_952, weights_sha256="cd" * 32))
    # Backwards, as no reader may rely on the order in which images were attacked.
    for place, robust in list(enumerate(verdicts))[::-1]:
        store.add(clean_row(7 * place, prediction=2 if robust is None else 1, model=cell.model))
        row = not_attacked(cell, 7 * place) if robust is None else verdict_row(cell, 7 * place, prediction=2 - robust)
        store.add(row)


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    """The path of a CSV of rows; of their columns, only some."""

    def write(*rows: dict[str, Any], columns: Sequence[str] = COLUMNS) -> Path:
        file = tmp_path / "results.csv"
        table(*rows)[list(columns)].to_csv(file, index=False)
        return file

    return write


def refused(path: Path) -> str:
    """Why results are refused: one sentence that names the file."""
    with pytest.raises(RequestError) as caught:
        read_results(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert "np." not in message
    return message


# Run folders


def test_a_run_says_which_images_withstood_in_the_order_of_their_indices(tmp_path: Path) -> None:
    other = replace(CELL, threat=Threat.of("linf", "8/255"))
    outcomes = {CELL: (True, False, None, True, True), other: (False, False, None, True, False)}
    found = read_results(write_run(tmp_path / "run", outcomes))
    assert found.survivors == {0: "10011", 1: "00010"}
    assert found.records["robust_correct"].tolist() == [3, 1]
    assert found.records["clean_correct"].tolist() == [4, 4]
    assert found.run is not None
    assert found.source == tmp_path / "run"


def test_the_csv_of_a_run_is_the_run(tmp_path: Path) -> None:
    cells = [
        replace(CELL, threat=Threat.of("l2", eps), attack=PGD(steps=7, loss="auto")) for eps in ("8/255", "0.1", "1/3")
    ]
    cells += [replace(CELL, attack=Noise())]
    run = read_results(write_run(tmp_path / "run", dict.fromkeys(cells, (True, False, None, True, True))))
    file = tmp_path / "results.csv"
    run.records.to_csv(file, index=False)
    read = read_results(file)
    ours, theirs = keys_of([run, read])
    assert ours == theirs
    assert len(set(ours)) == 4
    assert (read.run, read.survivors) == (None, {})
    # Decimal to binary in a fast parser: the last bit may differ.
    from_csv, from_store = (frame.astype(object).where(frame.notna(), None) for frame in (read.records, run.records))
    pd.testing.assert_frame_equal(from_csv, from_store, check_exact=False, rtol=1e-15, atol=0)
    for column in ("model", "eps", "subset", "loss", "explanation", "weights_sha256", "robust_correct"):
        assert read.records[column].tolist() == run.records[column].tolist()


@pytest.mark.parametrize(("complete", "missing"), [(1, 1), (0, 2)])
def test_a_run_that_is_not_finished_is_refused(complete: int, missing: int, tmp_path: Path) -> None:
    other = replace(CELL, model="b")
    outcomes = {CELL: (True,) * (5 if complete else 0), other: (True, False)}
    said = refused(write_run(tmp_path / "run", outcomes))
    assert f"lacks {missing} cell" in said
    assert "repeat the command" in said


def test_a_folder_that_is_no_run_and_a_path_to_nothing_are_refused(tmp_path: Path) -> None:
    assert "is not a run" in refused(tmp_path)
    assert "does not exist" in refused(tmp_path / "nothing")
    folder = write_run(tmp_path / "run", {CELL: (True,) * 5})
    (folder / DATABASE).unlink()
    assert "holds no results yet" in refused(folder)
    (folder / CONFIGURATION).write_text("{", encoding="utf-8")
    assert "is damaged" in refused(folder)


# CSVs of now and of before


def test_a_csv_of_the_first_version_is_read_and_what_it_lacks_is_empty(written: Callable[..., Path]) -> None:
    found = read_results(written(record("a", 150), record("b", 120), columns=FIRST_VERSION))
    assert set(COLUMNS) <= set(found.records)
    assert found.records["robust_correct"].tolist() == [150, 120]
    for column in ("b", "explanation", "explained_images", *SIMILARITY_COLUMNS):
        assert found.records[column].isna().all()


@pytest.mark.parametrize("column", NEEDED)
def test_a_csv_without_what_a_comparison_needs_is_refused(column: str, written: Callable[..., Path]) -> None:
    said = refused(written(record("a", 150), columns=[name for name in COLUMNS if name != column]))
    assert f"has no column '{column}'" in said
    assert "repeat its run" in said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "cannot be read as CSV"),
        (b"model,robust\nresnet,0.5\n", "has no column 'dataset'"),
        (b"model;dataset;attack\na;digits;pgd\n", "has no column 'model'"),
        (b"model,dataset\na,b,c\nd,e,f,g,h\n", "cannot be read as CSV"),
        (b'{"records": []}', "has no column 'model'"),
        (b"SQLite format 3\x00\x10\x00\x01\x01\xff\xfe\xfd", "cannot be read as CSV"),
    ],
    ids=["nothing", "another tool", "semicolons", "ragged", "json", "database"],
)
def test_what_another_tool_wrote_is_refused(content: bytes, said: str, tmp_path: Path) -> None:
    file = tmp_path / "other.csv"
    file.write_bytes(content)
    assert said in refused(file)


def test_a_csv_without_rows_is_refused(written: Callable[..., Path]) -> None:
    assert "has no rows" in refused(written())


def test_names_that_look_like_numbers_or_nothing_stay_names(written: Callable[..., Path]) -> None:
    rows = [
        record(name, 100, subset="000000000123", weights_sha256="0" * 64, version="1.10")
        for name in ("007", "nan", "NA")
    ]
    found = read_results(written(*rows)).records
    assert found["model"].tolist() == ["007", "nan", "NA"]
    assert set(found["subset"]) == {"000000000123"}
    assert set(found["version"]) == {"1.10"}


# Counts that are none


@pytest.mark.parametrize("column", ["images", "clean_correct", "robust_correct", "worst_correct"])
@pytest.mark.parametrize(
    "value",
    [float("nan"), "many", "NaN", None, float("inf"), -1, 100.5, TOTAL + 1],
    ids=["nan", "text", "NaN as text", "nothing", "infinite", "negative", "half", "more than all"],
)
def test_a_count_that_is_none_is_refused(column: str, value: object, written: Callable[..., Path]) -> None:
    if column == "images" and value == TOTAL + 1:
        value = 0
    said = refused(written(record("fine", 150), record("a", 150, **{column: value})))
    assert "row 2" in said
    assert column in said


@pytest.mark.parametrize("column", ["epsilon", "step_size"])
@pytest.mark.parametrize("value", ["8/255", float("inf")])
def test_a_radius_that_is_no_number_is_refused(column: str, value: object, written: Callable[..., Path]) -> None:
    said = refused(written(record("fine", 150), record("a", 150, **{column: value})))
    assert f"row 2: {column}" in said


def test_a_measure_that_is_no_number_is_refused(written: Callable[..., Path]) -> None:
    column = SIMILARITY_COLUMNS[0]
    said = refused(written(record("fine", 150, **{column: 0.5}), record("a", 150, **{column: "close"})))
    assert f"row 2: {column}" in said


# Rows that are there twice, and epsilons that are written in two ways


def test_a_row_that_is_there_twice_is_refused(written: Callable[..., Path]) -> None:
    said = refused(written(record("a", 150), record("b", 150), record("a", 140)))
    assert "rows 1 and 3" in said
    assert "(a)" in said


@pytest.mark.parametrize("eps", ["0.0313725", "0.03137255", "0.031372549019607843"])
def test_an_epsilon_is_the_same_however_it_is_written(eps: str) -> None:
    steps = {"steps": 10, "attack": "pgd"}
    fraction = results_of(record("a", 150, eps="8/255", epsilon=8 / 255, step_size=2.5 * (8 / 255) / 10, **steps))
    decimal = results_of(record("a", 150, eps=eps, epsilon=float(eps), step_size=2.5 * float(eps) / 10, **steps))
    ours, theirs = keys_of([fraction, decimal])
    assert ours == theirs


def test_a_row_that_is_there_in_two_notations_is_there_twice(written: Callable[..., Path]) -> None:
    rows = [record("a", 150, eps=eps, epsilon=value) for eps, value in (("8/255", 8 / 255), ("0.0313725", 0.0313725))]
    assert "rows 1 and 2" in refused(written(*rows))


@pytest.mark.parametrize("values", [(0.03, 8 / 255), (0.031, 8 / 255), (8 / 255, 0.0314), (0.0, 1e-9), (0.5, 0.50001)])
def test_epsilons_that_differ_stay_apart(values: tuple[float, float]) -> None:
    first, second = (results_of(record("a", 150, epsilon=value)) for value in values)
    ours, theirs = keys_of([first, second])
    assert ours != theirs


def test_epsilons_do_not_chain() -> None:
    """Each is close to its neighbour, the first is not close to the last."""
    values = [0.5 * (1 + 8e-6) ** power for power in range(4)]
    keys = [key for (key,) in keys_of([results_of(record("a", 150, epsilon=value)) for value in values])]
    assert keys[0] == keys[1]
    assert keys[0] != keys[3]


@pytest.mark.parametrize("column", KEY)
def test_rows_that_differ_in_a_part_of_the_key_are_two(column: str) -> None:
    row = record("a", 150)
    value = row[column] + 1 if isinstance(row[column], int | float) else row[column] + "x"
    (keys,) = keys_of([results_of(row, record("a", 150) | {column: value})])
    assert keys[0] != keys[1]


def test_what_an_attack_does_not_have_is_equal_to_itself() -> None:
    row = record("a", 150, attack="noise", steps=0, step_size=None, loss="")
    keys = [key for (key,) in keys_of([results_of(row), results_of(row | {"step_size": float("nan")})])]
    assert keys[0] == keys[1]


# Survivors


def test_survivors_are_read_with_their_leading_zeros(tmp_path: Path) -> None:
    bits = "0" * 60 + "1" * 140
    file = tmp_path / "baseline.csv"
    table(record("a", 140), record("b", 3)).assign(**{SURVIVORS: [bits, ""]}).to_csv(file, index=False)
    assert read_results(file).survivors == {0: bits, 1: ""}


@pytest.mark.parametrize("bits", ["1" * 139 + "0" * 61, "1" * 140 + "2" * 60, "1.4E+139"], ids=["fewer", "2", "excel"])
def test_survivors_that_disagree_with_the_count_are_refused(bits: str, tmp_path: Path) -> None:
    file = tmp_path / "baseline.csv"
    table(record("a", 140)).assign(**{SURVIVORS: [bits]}).to_csv(file, index=False)
    assert "row 1: survivors and worst_correct disagree" in refused(file)


def test_survivors_of_other_images_than_were_counted_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "baseline.csv"
    table(record("a", 140)).assign(**{SURVIVORS: ["1" * 140]}).to_csv(file, index=False)
    assert "row 1: survivors" in refused(file)


def test_keys_are_numbered_by_row() -> None:
    rows = [record("a", 1, steps=steps) for steps in (20, 100, 5)]
    (keys,) = keys_of([results_of(*rows)])
    assert all(one != other for one, other in pairwise(keys))
    assert keys == [0, 1, 2]
