"""Exports: tidy and wide CSV that give back the numbers they were made of."""

import csv
import io
from pathlib import Path

import pandas as pd
import pytest

from robustbench_bcos.bench.records import COLUMNS
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.reports.exports import export
from tests.reports.handmade import record, run_of, table

RECORDS = table(
    record("net", 67, eps="8/255", epsilon=8 / 255, norm="linf", steps=20),
    record("net", 33, eps="8/255", epsilon=8 / 255, norm="linf", steps=100),
    record("net", 0, attack="noise", steps=0, step_size=None, loss="", zero_gradient_share=None, mean_delta=None),
)


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
    assert [noise[key] for key in ("step_size", "loss", "zero_gradient_share", "mean_delta")] == 4 * [""]


def test_wide_tables_have_clean_accuracy_and_few_steps_before_many(tmp_path: Path) -> None:
    export(run_of(RECORDS, tmp_path))
    assert (tmp_path / "table_linf.csv").read_text(encoding="utf-8") == (
        "model,clean,linf 8/255\nnet,0.95,0.335 / 0.165\n"
    )
    assert rows(tmp_path / "table_l2.csv") == [{"model": "net", "clean": "0.95", "l2 0.5": "0.0"}]


def test_times_are_in_a_file_of_their_own(tmp_path: Path) -> None:
    export(run_of(RECORDS, tmp_path))
    assert rows(tmp_path / "timings.csv") == [
        {"cell": "a cell", "attack_seconds": "1.25", "explanation_seconds": "0.5"}
    ]
    for name in ("results.csv", "table_l2.csv", "table_linf.csv"):
        assert "1.25" not in (tmp_path / name).read_text(encoding="utf-8")


def test_comparisons_of_maps_are_a_file_of_their_own_where_there_are_any(tmp_path: Path) -> None:
    shifts = pd.DataFrame(
        [
            {"cell": "a cell", "image": 7, "comparison": "attack", "counted": 1, "cosine": 0.123457, "ssim": None},
            {"cell": "a cell", "image": 9, "comparison": "other", "counted": 0, "cosine": None, "ssim": -0.5},
        ]
    )
    assert "explanations.csv" not in {file.name for file in export(run_of(RECORDS, tmp_path))}
    assert "explanations.csv" in {file.name for file in export(run_of(RECORDS, tmp_path, shifts=shifts))}
    assert (tmp_path / "explanations.csv").read_text(encoding="utf-8") == (
        "cell,image,comparison,counted,cosine,ssim\na cell,7,attack,1,0.123457,\na cell,9,other,0,,-0.5\n"
    )


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
