"""What reports say of attacks on explanations: files, curves, panels and a section of the page."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from robustbench_bcos.bench.fooled import make_fooled, make_fooled_images
from robustbench_bcos.bench.records import make_records
from robustbench_bcos.bench.rows import FooledPictureRow
from robustbench_bcos.bench.store import Store
from robustbench_bcos.reports.exports import export
from robustbench_bcos.reports.figures import draw
from robustbench_bcos.reports.page import fooled
from robustbench_bcos.reports.run_folder import RunFolder
from tests.bench.stages.test_fool import asked
from tests.bench.tiny_zoo import carry_out
from tests.reports.handmade import run_of, table


@pytest.fixture(scope="module")
def run() -> RunFolder:
    """Maps of one model by two methods, under two epsilons."""
    request = asked(eps=("0.2", "0.4"), method=("dynamic_weights", "gradient"), evidence="quick")
    with Store() as store:
        carry_out(request, store)
        found, images = make_fooled(store, request.identity), make_fooled_images(store, request.identity)
        pictures = {cell.key: store.fooled_pictures(cell) for cell in request.cells}
        known = run_of(make_records(store, request.identity))
    plain = {cell: [] for cell in pictures}
    moved = {"fooled": found, "fooled_images": images, "fooled_pictures": pictures}
    return replace(known, cells=list(pictures), pictures=plain, **moved)


def test_files_have_every_row(run: RunFolder, tmp_path: Path) -> None:
    files = {file.name for file in export(run, tmp_path)}
    assert {"fooled.csv", "fooled_images.csv"} <= files
    assert len(pd.read_csv(tmp_path / "fooled.csv")) == len(run.fooled) == 4
    assert len(pd.read_csv(tmp_path / "fooled_images.csv")) == len(run.fooled_images)
    assert not {file.name for file in export(run_of(table()), tmp_path)} & {"fooled.csv", "fooled_images.csv"}


def test_curves_are_the_means_of_the_table_beside_their_controls(run: RunFolder) -> None:
    curves, *panels = (figure for figure in draw(run) if figure.name.startswith("fooled"))
    assert curves.figure is not None
    axes = [one for one in curves.figure.axes if one.lines]
    assert [one.get_title(loc="left").split("\n")[-1] for one in axes] == ["dynamic_weights", "gradient"]
    for one, method in zip(axes, ("dynamic_weights", "gradient"), strict=True):
        rows = run.fooled[run.fooled["method"] == method].sort_values("epsilon")
        drawn = {str(line.get_label()): list(line.get_ydata()) for line in one.lines}
        assert list(drawn) == [
            "explanation attacked", "prediction attacked", "random noise of the same size", "another image of the class"
        ]  # fmt: skip
        assert drawn["explanation attacked"] == pytest.approx([1.0, *rows["cosine_explanation"]], rel=1e-3)
        assert drawn["another image of the class"][0] == pytest.approx(rows["cosine_other"].iloc[0], rel=1e-3)
    assert "net, gradient, at 0.4: " in curves.description
    assert len(panels) == 4
    assert [panel.on_page for panel in panels] == [False, False, True, True]
    assert all(panel.title.endswith(("dynamic_weights", "gradient")) for panel in panels)


def test_pictures_have_the_same_prediction_and_another_map(run: RunFolder) -> None:
    rows: list[FooledPictureRow] = [row for same in run.fooled_pictures.values() for row in same]
    assert {row.image for row in rows} == {0, 1, 2, 3, 4}
    for row in rows:
        assert row.picture.attacked is not None
        assert row.picture.attacked.prediction == row.picture.clean.prediction == row.label
        assert (row.picture.attacked.contributions != row.picture.clean.contributions).any() or row.method == "gradient"


def test_the_page_marks_what_is_suspect(run: RunFolder) -> None:
    doubted = run.fooled.assign(trust="suspect")
    rows = fooled(replace(run, fooled=doubted)).rows
    assert [row.name for row in rows] == ["net"] * 4
    assert all(row.alarming for row in rows)
    # What a better attack would change, and nothing else.
    marks = [cell.text[-1] == "?" for cell in rows[0].cells[4:]]
    assert marks == [False, True, True, True, True, False, False]
    alone = fooled(replace(run, fooled=run.fooled.assign(spearman_other=None)))
    assert alone.caption.endswith("No two of the explained images are of one class: explain more")
    assert not any(row.alarming for row in fooled(replace(run, fooled=run.fooled.assign(trust="sound"))).rows)
