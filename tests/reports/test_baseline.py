"""Baselines: what is written is what is read, and says how it came about."""

import errno
import json
import os
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.reports.baseline import write_baseline
from robustbench_bcos.reports.gate import check
from robustbench_bcos.reports.results import SURVIVORS, Results, keys_of, read_results
from tests.bench.by_hand import identity_of
from tests.reports.handmade import TOTAL, record, run_of, table

COSINE = "explanation_cosine_true_attack"
BORN = {
    "started": "2025-01-02T03:04:05+00:00",
    "command": "robustbench_bcos run --eps 8/255",
    "commit": "ef" * 20 + "+dirty",
    "device": "a CPU, 1 threads",
    "versions": {"python": "3.12.1", "torch": "2.9.0"},
}
OF_IMAGES: dict[str, Any] = {
    "dataset": "digits",
    "images": TOTAL,
    "subset": "0123456789ab" * 5 + "0123",
    "weights": {"a": "ab" * 32, "b": "cd" * 32},
    "seed": 3,
}


@pytest.fixture
def results() -> Results:
    rows = [
        record("a", 140, eps="8/255", epsilon=8 / 255, step_size=2.5 * (8 / 255) / 20, **{COSINE: 0.1234}),
        record("b", 3, attack="noise", steps=0, step_size=None, loss="", b=2.0, mean_delta=None),
    ]
    run = replace(run_of(table(*rows)), identity=identity_of(**OF_IMAGES), session=BORN | {"class_names": ["0"]})
    survivors = {0: "0" * 60 + "1" * 140, 1: "111" + "0" * 197}
    return Results(source=Path("mine"), records=run.records, survivors=survivors, run=run)


def test_a_baseline_is_read_as_it_was_written(results: Results, tmp_path: Path) -> None:
    write_baseline(results, tmp_path / "digits.csv")
    read = read_results(tmp_path / "digits.csv")
    assert read.survivors == results.survivors
    ours, theirs = keys_of([results, read])
    assert ours == theirs
    from_csv, written = (
        frame.astype(object).where(frame.notna(), None)
        for frame in (read.records.drop(columns=SURVIVORS), results.records)
    )
    # Decimal to binary in a fast parser: the last bit may differ.
    pd.testing.assert_frame_equal(from_csv, written, check_exact=False, rtol=1e-15, atol=0)


def test_a_run_holds_its_own_baseline_at_no_tolerance(results: Results, tmp_path: Path) -> None:
    write_baseline(results, tmp_path / "digits.csv")
    read = read_results(tmp_path / "digits.csv")
    columns = ["robust_accuracy_worst", "robust_accuracy", "clean_accuracy", COSINE]
    report = check(results, read, columns=columns, alpha=0.5, both_ways=True)
    assert report.passed
    assert {row.status for row in report.rows} == {"held"}
    assert report.notes == ()


def test_the_birth_certificate_says_how_it_came_about(results: Results, tmp_path: Path) -> None:
    files = write_baseline(results, tmp_path / "digits.csv")
    assert files == [tmp_path / "digits.csv", tmp_path / "digits.csv.birth.json"]
    assert files[1].name == files[0].name + ".birth.json"
    birth = json.loads(files[1].read_text(encoding="utf-8"))
    assert birth.pop("sha256") == sha256(files[0].read_bytes()).hexdigest()
    assert birth == BORN | OF_IMAGES


def test_a_baseline_that_was_changed_is_refused_unless_that_is_meant(results: Results, tmp_path: Path) -> None:
    file, birth = write_baseline(results, tmp_path / "digits.csv")
    text = file.read_text(encoding="utf-8")
    # What git makes of it on another system is no change.
    file.write_bytes(text.replace("\n", "\r\n").encode())
    read_results(file)
    assert ",140," in text
    file.write_text(text.replace(",140,", ",140.0,", 1), encoding="utf-8")
    with pytest.raises(RequestError, match=r"is not as `check --update` wrote it: restore it, update it again, or rem"):
        read_results(file)
    birth.write_text("[", encoding="utf-8")
    with pytest.raises(RequestError, match=r"birth\.json is damaged: restore it, or remove it if \S+ is right$"):
        read_results(file)
    birth.unlink()
    read_results(file)


def test_a_baseline_is_replaced_and_nothing_else_is_left(results: Results, tmp_path: Path) -> None:
    file = tmp_path / "deep" / "er" / "digits.csv"
    write_baseline(results, file)
    first = file.read_bytes()
    file.write_text("another", encoding="utf-8")
    write_baseline(results, file)
    assert file.read_bytes() == first
    assert {entry.name for entry in file.parent.iterdir()} == {"digits.csv", "digits.csv.birth.json"}


def test_a_csv_is_no_run_and_does_not_know_every_image(results: Results, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="is a CSV: give the run folder"):
        write_baseline(replace(results, run=None), tmp_path / "digits.csv")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_not_overwritten(results: Results, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="is a folder: give the name of a CSV file"):
        write_baseline(results, tmp_path)


def test_a_file_is_not_taken_for_a_folder(results: Results, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match="cannot be written"):
        write_baseline(results, tmp_path / "file" / "digits.csv")


def test_a_full_disk_leaves_the_old_baseline(results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "digits.csv"
    file.write_text("old", encoding="utf-8")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(RequestError, match="is full: free some space"):
        write_baseline(results, file)
    assert file.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [file]
