"""Exports: tidy and wide CSV that give back the numbers they were made of."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from robustbench_bcos.bench.cells import Cell, make_cells
from robustbench_bcos.bench.configured import make_config
from robustbench_bcos.bench.evidence import transfer
from robustbench_bcos.bench.records import COLUMNS, CURVE_COLUMNS, EVIDENCE_COLUMNS
from robustbench_bcos.bench.store import Store
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.reports.exports import export
from robustbench_bcos.reports.run_folder import RunFolder, read_run
from tests.bench.by_hand import (
    SESSION,
    clean_row,
    distance_row,
    evidence_row,
    identity_of,
    model_row,
    timing,
    verdict_row,
)
from tests.reports.handmade import outcome, record, run_of, table

RECORDS = table(
    record("net", 67, eps="8/255", epsilon=8 / 255, norm="linf", steps=20),
    record("net", 33, eps="8/255", epsilon=8 / 255, norm="linf", steps=100),
    record(
        "net",
        0,
        attack="noise",
        steps=0,
        step_size=None,
        loss="",
        degenerate_gradient_share=None,
        mean_perturbation=None,
    ),
)


def write_description(folder: Path, store: Store) -> list[Cell]:
    """A run of two cells, of which something is timed."""
    cells = make_cells(make_config({"steps": (5, 20)}), ["net"])
    store.add(model_row(), clean_row(0), verdict_row(cells[0], 0), timing(cells[0], "attack", 1.5))
    store.add(evidence_row("net"), *(timing(cell, "evidence", 0.25) for cell in cells))
    store.add(evidence_row(cells[0].key), timing(cells[0], "evidence", 0.5))
    store.add(distance_row(0, 0.25, 0.5), timing(cells[0], "distances", 0.125))
    identity = identity_of(*cells, images=1, distances=True)
    description = {"identity": identity.to_json(), "sessions": [SESSION]}
    (folder / "run.json").write_text(json.dumps(description), encoding="utf-8")
    return cells


def rows(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8"))))


def test_a_run_is_written_as_one_tidy_and_some_wide_files(tmp_path: Path) -> None:
    files = export(run_of(RECORDS, tmp_path))
    assert [file.name for file in files] == ["results.csv", "timings.csv", "table_linf.csv", "table_l2.csv"]
    assert sorted(files) == sorted(tmp_path.iterdir())


def test_results_give_back_every_number_to_the_last_bit(tmp_path: Path) -> None:
    export(run_of(RECORDS, tmp_path))
    for written, kept in zip(rows(tmp_path / "results.csv"), RECORDS.to_dict(orient="records"), strict=True):
        assert tuple(written) == COLUMNS
        for column, value in kept.items():
            expected = "" if pd.isna(value) else repr(value) if isinstance(value, float) else str(value)
            assert written[str(column)] == expected, column


def test_fractions_have_no_percent_signs_and_what_is_missing_is_empty(tmp_path: Path) -> None:
    export(run_of(RECORDS, tmp_path))
    assert "%" not in (tmp_path / "results.csv").read_text(encoding="utf-8")
    first, _, noise = rows(tmp_path / "results.csv")
    assert (first["eps"], first["epsilon"]) == ("8/255", "0.03137254901960784")
    assert (first["robust_accuracy"], first["reasons"]) == ("0.335", "")
    assert [noise[key] for key in ("step_size", "loss", "degenerate_gradient_share", "mean_perturbation")] == 4 * [""]


def test_wide_tables_have_clean_accuracy_and_few_steps_before_many(tmp_path: Path) -> None:
    export(run_of(RECORDS, tmp_path))
    assert (tmp_path / "table_linf.csv").read_text(encoding="utf-8") == (
        "model,clean,linf 8/255 pgd,trust\nnet,0.95,0.335 / 0.165,sound\n"
    )
    assert rows(tmp_path / "table_l2.csv") == [
        {"model": "net", "clean": "0.95", "l2 0.5 noise": "0.0", "trust": "sound"}
    ]


def test_a_number_of_a_wide_table_is_marked_and_the_mark_explained_in_its_line(tmp_path: Path) -> None:
    mixed = [
        record("a", 60, trust="suspect"), record("a", 50, steps=100),
        record("b", 60), record("b", 50, steps=100),
        record("c", 60, trust="unchecked"), record("c", 50, steps=100, trust="unchecked"),
    ]  # fmt: skip
    export(run_of(table(*mixed), tmp_path))
    assert (tmp_path / "table_l2.csv").read_text(encoding="utf-8").splitlines()[1:] == [
        'a,0.95,0.3? / 0.25,"1 suspect (?), 1 sound"',
        "b,0.95,0.3 / 0.25,sound",
        "c,0.95,0.3† / 0.25†,unchecked (†)",
    ]


def test_times_are_in_a_file_of_their_own(tmp_path: Path) -> None:
    export(run_of(RECORDS, tmp_path))
    assert rows(tmp_path / "timings.csv") == [
        {"cell": "a cell", "attack_seconds": "1.25", "explanation_seconds": "0.5"}
    ]
    for name in ("results.csv", "table_l2.csv", "table_linf.csv"):
        assert "1.25" not in (tmp_path / name).read_text(encoding="utf-8")


def test_comparisons_of_maps_are_a_file_of_their_own_where_there_are_any(tmp_path: Path) -> None:
    similarities = pd.DataFrame(
        [
            {"cell": "a cell", "image": 7, "comparison": "attack", "counted": 1, "cosine": 0.123457, "ssim": None},
            {"cell": "a cell", "image": 9, "comparison": "other", "counted": 0, "cosine": None, "ssim": -0.5},
        ]
    )
    assert "explanations.csv" not in {file.name for file in export(run_of(RECORDS, tmp_path))}
    assert "explanations.csv" in {file.name for file in export(run_of(RECORDS, tmp_path, similarities=similarities))}
    assert (tmp_path / "explanations.csv").read_text(encoding="utf-8") == (
        "cell,image,comparison,counted,cosine,ssim\na cell,7,attack,1,0.123457,\na cell,9,other,0,,-0.5\n"
    )


EVIDENCE = pd.DataFrame(
    [
        outcome("cell 0", "noise", "held", examined=9, sentence="0 of 9 images, so far"),
        outcome("cell 1", "unstable_loss", "reported", 1, 4, value=0.25),
        outcome("cell 1", "fab", "not done", examined=0, sentence='not done: "peers"'),
    ]
)
TRANSFERS = pd.DataFrame(
    [["pgd", "l2", "1/2", 20, "a", "b", 3, 1, 1 / 3, 0.1, 0.5, "cell 0"]], columns=list(transfer.COLUMNS)
)
DISTANCES = pd.DataFrame(
    [
        distance_row(image, low, high, passes, norm="linf").to_columns()
        for image, low, high, passes in ((7, 0.0, 0.0, 0), (9, 0.0123457, 0.015625, 287), (12, 1.0, None, 492))
    ]
)
EXAMINED: dict[str, dict[str, Any]] = {
    "evidence.csv": {"evidence": EVIDENCE},
    "transfer.csv": {"transfers": TRANSFERS},
    "distances.csv": {"distances": DISTANCES},
    "curves.csv": {"distances": DISTANCES},
}


def examined(folder: Path) -> RunFolder:
    return replace(run_of(RECORDS, folder), evidence=EVIDENCE, transfers=TRANSFERS, distances=DISTANCES)


@pytest.mark.parametrize("name", EXAMINED)
def test_what_was_examined_is_a_file_of_its_own_where_there_is_anything(name: str, tmp_path: Path) -> None:
    run = run_of(RECORDS, tmp_path)
    assert not {file.name for file in export(run)} & EXAMINED.keys()
    beside = {"distances.csv", "curves.csv"} if "distances" in EXAMINED[name] else {name}
    files = {file.name for file in export(replace(run, **EXAMINED[name]))}
    assert files & EXAMINED.keys() == beside
    assert files == {file.name for file in tmp_path.iterdir()}


def test_evidence_says_of_each_check_what_it_found(tmp_path: Path) -> None:
    export(examined(tmp_path))
    held, reported, undone = rows(tmp_path / "evidence.csv")
    assert tuple(held) == EVIDENCE_COLUMNS
    assert held == {
        "cell": "cell 0", "check": "noise", "status": "held", "examined": "9", "against": "0", "value": "",
        "sentence": "0 of 9 images, so far", "link": "page#noise",
    }  # fmt: skip
    assert (reported["value"], undone["sentence"]) == ("0.25", 'not done: "peers"')


def test_who_falls_to_whom_is_exact(tmp_path: Path) -> None:
    export(examined(tmp_path))
    (row,) = rows(tmp_path / "transfer.csv")
    assert tuple(row) == transfer.COLUMNS
    assert (row["eps"], row["source"], row["target"], row["share"]) == ("1/2", "a", "b", repr(1 / 3))


def test_distances_are_written_image_by_image_and_summed_up_in_curves(tmp_path: Path) -> None:
    export(examined(tmp_path))
    assert (tmp_path / "distances.csv").read_text(encoding="utf-8") == (
        "model,norm,image,low,high,certified,passes\n"
        "net,linf,7,0.0,0.0,,0\nnet,linf,9,0.0123457,0.015625,,287\nnet,linf,12,1.0,,,492\n"
    )
    (curve,) = rows(tmp_path / "curves.csv")
    assert tuple(curve) == CURVE_COLUMNS
    assert (curve["images"], curve["median_distance"], curve["passes"]) == ("3", "0.015625", "779")
    # Up to the largest radius of the norm, 8/255: at once, about half-way, never.
    assert float(curve["area"]) == pytest.approx((0 + 0.015625 / (8 / 255) + 1) / 3)


def test_a_median_that_is_not_known_is_empty(tmp_path: Path) -> None:
    export(replace(run_of(RECORDS, tmp_path), distances=DISTANCES.assign(high=None)))
    (curve,) = rows(tmp_path / "curves.csv")
    assert (curve["median_distance"], curve["area"]) == ("", "1.0")


def test_times_of_all_work_are_a_row_for_each_cell(tmp_path: Path) -> None:
    with Store(tmp_path / "run.sqlite") as store:
        first, second = write_description(tmp_path, store)
    run = read_run(tmp_path)
    export(run)
    works = ("attack", "explanation", "evidence", "distances", "fooling", "smoothing")
    names = [f"{work}_seconds" for work in works]
    assert rows(tmp_path / "timings.csv") == [
        {"cell": first.key, **dict(zip(names, ("1.5", "0.0", "0.75", "0.125", "0.0", "0.0"), strict=True))},
        {"cell": second.key, **dict(zip(names, ("0.0", "0.0", "0.25", "0.0", "0.0", "0.0"), strict=True))},
    ]
    for name in ("results.csv", "table_l2.csv"):
        assert "0.75" not in (tmp_path / name).read_text(encoding="utf-8")


def test_files_are_replaced(tmp_path: Path) -> None:
    export(run_of(RECORDS, tmp_path))
    before = (tmp_path / "results.csv").read_bytes()
    export(run_of(RECORDS.head(1), tmp_path))
    assert (tmp_path / "results.csv").read_bytes() != before
    export(run_of(RECORDS, tmp_path))
    assert (tmp_path / "results.csv").read_bytes() == before


def test_a_folder_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"gone cannot be written \(No such file or directory\)"):
        export(run_of(RECORDS, tmp_path / "gone"))
