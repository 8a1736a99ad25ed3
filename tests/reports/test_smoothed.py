"""What reports say of smoothed networks: never beside the networks that were attacked, and under names of their own."""

import io
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from robustbench_bcos.bench.smoothed import SmoothedRecord
from robustbench_bcos.reports.console import accuracy_table, smoothed_table
from robustbench_bcos.reports.exports import export
from robustbench_bcos.reports.page import accuracies, render, smoothed
from robustbench_bcos.reports.run_folder import RunFolder
from tests.reports.pictured import record, run_of


def row(certificate: str, radius: float, share: float, *, right: float | None) -> SmoothedRecord:
    return SmoothedRecord(
        model="<a>",
        certificate=certificate,
        certifies=f"what {certificate} says",
        sigma=0.25,
        draws=100,
        alpha=0.001,
        norm="l2",
        eps=f"{radius:g}",
        radius_l2=radius,
        images=10,
        smoothed_correct=right,
        smoothed_abstained=None if right is None else 0.1,
        smoothed_certified=share,
        smoothed_certified_low=share,
        smoothed_certified_high=share,
        certifiable=radius < 1.5,
        seed=0,
    )


@pytest.fixture
def run() -> RunFolder:
    rows = [
        row("smoothing", 0.0, 0.8, right=0.8),
        row("smoothing", 0.5, 0.613, right=0.8),
        row("smoothing", 1.5, 0.0, right=0.8),
        row("sparsified_maps", 0.0, 0.9, right=None),
        row("sparsified_maps", 0.5, 0.0, right=None),
        row("sparsified_maps", 1.5, 0.0, right=None),
    ]
    smoothed_rows = pd.DataFrame([asdict(one) for one in rows])
    return replace(run_of([record("<a>", 100)]), smoothed=smoothed_rows, smoothed_images=pd.DataFrame({"image": [0]}))


def printed(run: RunFolder) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(smoothed_table(run.smoothed))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_terminal_has_each_radius_within_which_something_is_certified(run: RunFolder) -> None:
    said = printed(run)
    assert "smoothed networks, not of those above" in said
    (of_classes,) = (line for line in said.splitlines() if "smoothing" in line)
    assert [cell.strip() for cell in of_classes.strip("│").split("│")] == [
        "<a>",
        "smoothing",
        "0.25",
        "10.0",
        "80.0",
        "61.3",
    ]
    assert "l2 0.5" in said
    assert "l2 1.5" not in said
    # Shown for the sake of another row.
    shares = [1.0 if certificate == "smoothing" else 0.0 for certificate in run.smoothed["certificate"]]
    assert "too few draws" in " ".join(
        printed(replace(run, smoothed=run.smoothed.assign(smoothed_certified=shares))).split()
    )
    nothing = printed(replace(run, smoothed=run.smoothed.assign(smoothed_certified=0.0)))
    assert "smoothing" in nothing
    assert "l2 0.5" not in nothing


def test_the_page_keeps_them_apart_from_the_networks_that_were_attacked(run: RunFolder) -> None:
    page = render(run, [])
    assert "nothing of the networks that were attacked" in page
    assert 'id="smoothed"' in page
    assert 'id="smoothed"' not in render(run_of([record("a", 100)]), [])
    content = smoothed(run.smoothed)
    assert all(one.name == "smoothed <a>" for one in content.rows)
    assert [cell.text for cell in content.rows[1].cells[-5:]] == ["", "", "0.90", "0.00", "too few draws"]
    assert not any("smoothed" in column for column in accuracies(run.records).columns)
    assert "smoothed" not in str([column.header for column in accuracy_table(run).columns])


def test_files_are_written_where_something_was_certified(run: RunFolder, tmp_path: Path) -> None:
    files = {"smoothed.csv", "smoothed_images.csv"}
    assert files <= {file.name for file in export(run, tmp_path)}
    assert len(pd.read_csv(tmp_path / "smoothed.csv")) == len(run.smoothed)
    assert not files & {file.name for file in export(run_of([record("a", 100)]), tmp_path)}
