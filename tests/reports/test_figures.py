"""Which figures a run has, what they draw, and the files they are written to."""

import errno
import os
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from io import BytesIO
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox
from PIL import Image
from scipy.stats import t

from robustbench_bcos.bench.evidence.transfer import COLUMNS as TRANSFER_COLUMNS
from robustbench_bcos.bench.rows import DistanceRow
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.statistics import wilson
from robustbench_bcos.reports.curves import (
    BANDS,
    BARS,
    PLACES,
    accuracy_over_distance,
    accuracy_over_epsilon,
    accuracy_over_steps,
    over_b,
    similarity_over_epsilon,
    transfer_matrix,
)
from robustbench_bcos.reports.figures import COLUMNS, ReportFigure, chosen, draw, write_figures
from robustbench_bcos.reports.marks import legend
from robustbench_bcos.reports.report import write_report
from robustbench_bcos.reports.run_folder import RunFolder
from robustbench_bcos.reports.style import styled, write_figure
from tests.bench.by_hand import distance_row
from tests.reports.pictured import TOTAL, explained, picture, record, rows_of, run_of, similarities_of

PICTURES = (picture(3), picture(14, after=0), picture(15), picture(92, after=0))
NOISE: dict[str, Any] = {"attack": "noise", "steps": 0, "loss": "", "start": "random"}


def drawn(run: RunFolder, images: Sequence[int] = ()) -> dict[str, ReportFigure]:
    """Figures by name, each of which is another's."""
    figures = list(draw(run, images))
    assert len({figure.name for figure in figures}) == len(figures), [figure.name for figure in figures]
    return {figure.name: figure for figure in figures}


# Which figures there are


def test_a_run_of_one_model_and_epsilon_without_explanations_has_a_curve() -> None:
    assert list(drawn(run_of([record("net", 100)]))) == ["accuracy_over_epsilon_l2-pgd"]


def test_each_norm_has_curves_of_its_own() -> None:
    run = run_of([record("net", 100), record("net", 50, norm="linf", eps=0.25)])
    assert list(drawn(run)) == ["accuracy_over_epsilon_l2-pgd", "accuracy_over_epsilon_linf-pgd"]


def test_several_steps_have_a_curve_at_each_epsilon() -> None:
    run = run_of([record("net", 100, eps=eps, steps=steps) for eps, steps in product((0.25, 1.5), (5, 20))])
    assert list(drawn(run)) == [
        "accuracy_over_epsilon_l2-pgd",
        "accuracy_over_steps_l2-pgd_0.25",
        "accuracy_over_steps_l2-pgd_1.5",
    ]


def test_an_epsilon_that_was_attacked_with_one_number_of_steps_has_no_curve_over_steps() -> None:
    run = run_of([record("net", 100, steps=5), record("net", 90), record("net", 50, eps=1.5)])
    assert list(drawn(run)) == ["accuracy_over_epsilon_l2-pgd", "accuracy_over_steps_l2-pgd_0.5"]


def test_several_b_have_a_curve_and_models_without_one_are_not_in_it() -> None:
    rows = [record(f"bcos-{b}", 100, b=b) for b in (1.25, 2.5)]
    assert "over_b_l2-pgd" in drawn(run_of([*rows, record("net", 30)]))
    assert "over_b_l2-pgd" not in drawn(run_of([rows[0], record("net", 30)]))
    assert "over_b_l2-pgd" not in drawn(run_of([rows[0], rows[0] | {"model": "other"}]))


def test_noise_is_not_mixed_with_gradients() -> None:
    run = run_of([record("net", 100), record("net", 150, **NOISE)])
    figures = drawn(run)
    assert list(figures) == ["accuracy_over_epsilon_l2-pgd", "accuracy_over_epsilon_l2-noise"]
    assert [lines_of(figure.figure.axes[0])["net"][1][1] for figure in figures.values()] == [0.5, 0.75]


def test_pictures_have_a_panel_for_each_cell_and_one_of_changes_for_several_models() -> None:
    rows = [record(model, 100, eps=eps) for model, eps in product(("net", "other"), (0.25, 1.5))]
    run = run_of(rows, pictures=dict.fromkeys(range(4), PICTURES))
    assert list(drawn(run)) == [
        "accuracy_over_epsilon_l2-pgd",
        "changes_l2-pgd_0.25",
        "changes_l2-pgd_1.5",
        "panel_001_net_l2-0.25",
        "panel_002_net_l2-1.5",
        "panel_003_other_l2-0.25",
        "panel_004_other_l2-1.5",
    ]


def test_one_model_has_no_panel_to_compare_models_by() -> None:
    assert list(drawn(run_of([record("net", 100)], pictures={0: PICTURES}))) == [
        "accuracy_over_epsilon_l2-pgd",
        "panel_001_net_l2-0.5",
    ]


def test_panels_of_fewer_steps_are_files_but_not_on_the_page() -> None:
    run = run_of([record("net", 100, steps=5), record("net", 90)], pictures={0: PICTURES, 1: PICTURES})
    on_page = {name: figure.on_page for name, figure in drawn(run).items() if name.startswith("panel")}
    assert on_page == {"panel_001_net_l2-0.5": False, "panel_002_net_l2-0.5": True}


def test_panels_belong_to_their_model_and_curves_to_all() -> None:
    run = run_of([record("net", 100), record("other", 90)], pictures={0: PICTURES, 1: PICTURES})
    owners = [figure.model for figure in drawn(run).values()]
    assert owners == [None, None, "net", "other"]


def test_the_panel_of_changes_has_only_images_that_every_model_has() -> None:
    run = run_of([record("net", 100), record("other", 90)], pictures={0: PICTURES, 1: [PICTURES[3], picture(16)]})
    figure = drawn(run)["changes_l2-pgd_0.5"].figure
    assert [text.get_text() for text in figure.texts if text.get_text().startswith("image")] == ["image 92\nclass cat"]
    apart = run_of([record("net", 100), record("other", 90)], pictures={0: PICTURES[:1], 1: [picture(16)]})
    assert "changes_l2-pgd_0.5" not in drawn(apart)


def test_an_attack_of_the_encoded_space_says_which_channels_are_shown() -> None:
    run = run_of([record("net", 100, space="encoded")], pictures={0: PICTURES})
    figure = drawn(run)["panel_001_net_l2-0.5"]
    said = "encoded space: the first three channels are shown"
    assert said in figure.description or said in figure.caption
    assert said in figure.figure.texts[0].get_text().replace("\n", " ")
    ordinary = drawn(run_of([record("net", 100)], pictures={0: PICTURES}))["panel_001_net_l2-0.5"]
    assert "encoded" not in ordinary.caption + ordinary.description + ordinary.figure.texts[0].get_text()


@pytest.mark.parametrize("attack", ["pgd", "noise"])
def test_a_panel_says_what_it_shows(attack: str) -> None:
    changes: dict[str, Any] = NOISE if attack == "noise" else {}
    run = run_of([record("net", 100, explanation="dynamic", **changes)], pictures={0: PICTURES})
    figure = drawn(run)["panel_001_net_l2-0.5"]
    steps = "" if attack == "noise" else ", 20 steps"
    assert figure.figure.texts[0].get_text().replace("\n", " ") == f"net · {attack} l2 0.5{steps} · dynamic"
    assert figure.caption.startswith(f"net under {attack} l2 0.5{steps}: ")
    assert figure.description == "image 3: 0 to 1, image 14: 0 to 0, image 15: 0 to 1, image 92: 0 to 0"


def test_explanations_have_a_curve() -> None:
    run = run_of(
        [record("net", 100, **explained({"attack": 0.25}))],
        similarities=similarities_of("cell 0", {"attack": [0.2, 0.3]}),
    )
    figure = drawn(run)["explanation_similarity_l2-pgd"]
    assert figure.model is None
    assert figure.description.startswith("net at 0.5: attacked 0.25")


def test_what_was_not_measured_is_not_called_a_number() -> None:
    run = run_of(
        [record("net", 100, **explained({"attack": 0.25}))],
        similarities=similarities_of("cell 0", {"attack": [0.2, 0.3]}),
    )
    said = drawn(run)["explanation_similarity_l2-pgd"].description
    assert "None" not in said
    assert "nan" not in said


def test_maps_none_of_which_count_have_no_curve() -> None:
    # As where images are asked for with --images, and no others are explained.
    similarities = similarities_of("cell 0", {"attack": [0.2, 0.3], "noise": [0.9, 0.8]}, counted=0)
    assert "explanation_similarity_l2-pgd" not in drawn(
        run_of([record("net", 100, explanation="dynamic")], similarities=similarities)
    )


# Names


NAMES = ("../../x:y", "..", "/etc/passwd", "a/b\\c", "a b", "", "模型", "con", "x\n", "%s{}", "-rf")


def test_names_of_models_do_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    run = run_of(
        [record(name, 100, eps=0.25) for name in NAMES],
        tmp_path,
        pictures=dict.fromkeys(range(len(NAMES)), PICTURES[:1]),
    )
    for name in drawn(run):
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+_-]*", name), name


def test_models_whose_names_look_alike_do_not_share_a_file() -> None:
    drawn(run_of([record(name, 100) for name in ("a/b", "a b", "a:b")], pictures=dict.fromkeys(range(3), PICTURES[:1])))


@pytest.mark.parametrize("radii", [(".5", "5"), ("1e+1", "1e-1")])
def test_epsilons_that_look_alike_do_not_share_a_file(radii: tuple[str, str]) -> None:
    rows = [record("net", 100, eps=float(eps), steps=steps) | {"eps": eps} for eps in radii for steps in (5, 20)]
    assert len(drawn(run_of(rows))) == 3


def test_the_name_of_a_file_is_no_longer_than_a_disk_allows() -> None:
    # A model from a file of weights is called as that file is.
    run = run_of([record("m" * 250, 100)], pictures={0: PICTURES[:1]})
    assert max(len(name) for name in drawn(run)) < 240


# Files


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], list[Path]]:
    """The files of a run that was drawn twice, each time into a folder of its own."""
    cosines = {"attack": [0.2, 0.4], "noise": [0.9, 0.8]}
    folders = []
    for name in ("first", "second"):
        run = run_of(
            [record("../../x:y", 100, **explained({"attack": 0.3}))],
            tmp_path_factory.mktemp(name),
            pictures={0: PICTURES[:2]},
            similarities=similarities_of("cell 0", cosines),
        )
        before = dict(mpl.rcParams)
        files = [file for figure in write_figures(run, formats=("png", "pdf")) for file in figure.files]
        assert dict(mpl.rcParams) == before
        assert sorted(file for file in run.folder.rglob("*") if file.is_file()) == sorted(files)
        folders.append(files)
    return folders[0], folders[1]


def test_every_figure_is_written_in_the_formats_asked_for_into_the_folder_of_figures(
    written: tuple[list[Path], list[Path]],
) -> None:
    stems = ["accuracy_over_epsilon_l2-pgd", "explanation_similarity_l2-pgd", "panel_001_x-y_l2-0.5"]
    assert [file.name for file in written[0]] == [f"{stem}.{kind}" for stem in stems for kind in ("png", "pdf")]
    assert {file.parent.name for file in written[0]} == {"figures"}


def test_files_are_what_their_names_say(written: tuple[list[Path], list[Path]]) -> None:
    for file in written[0]:
        if file.suffix == ".png":
            with Image.open(file) as image:
                image.load()
                assert min(image.size) > 300
        else:
            assert file.read_bytes().startswith(b"%PDF-")


def test_figures_are_the_same_bytes_whenever_they_are_drawn(written: tuple[list[Path], list[Path]]) -> None:
    for first, second in zip(*written, strict=True):
        assert first.read_bytes() == second.read_bytes(), first.name
        assert b"CreationDate" not in first.read_bytes()


def test_lines_and_letters_of_a_pdf_are_no_image(written: tuple[list[Path], list[Path]]) -> None:
    curve = next(file for file in written[0] if file.name == "accuracy_over_epsilon_l2-pgd.pdf")
    assert b"/Font" in curve.read_bytes()
    assert b"/Subtype /Image" not in curve.read_bytes()


@pytest.mark.parametrize("formats", [(), ("pdf",)])
def test_the_page_has_png_whatever_is_in_files(formats: tuple[str, ...], tmp_path: Path) -> None:
    (found,) = write_figures(run_of([record("net", 100)], tmp_path), **({"formats": formats} if formats else {}))
    assert [file.suffix[1:] for file in found.files] == list(formats or ("png",))
    with Image.open(BytesIO(found.image)) as image:
        assert image.format == "PNG"


def test_a_pdf_of_an_earlier_report_does_not_keep_old_numbers(tmp_path: Path) -> None:
    write_figures(run_of([record("net", 100)], tmp_path), formats=("png", "pdf"))
    pdf = tmp_path / "figures" / "accuracy_over_epsilon_l2-pgd.pdf"
    before = pdf.read_bytes()
    (found,) = write_figures(run_of([record("net", 20)], tmp_path))
    assert pdf in found.files
    assert pdf.read_bytes() != before


def test_a_users_own_settings_are_left_alone_and_change_nothing(tmp_path: Path) -> None:
    figure = accuracy_over_epsilon(table(record("net", 100)))
    (plain,) = {file.read_bytes() for file in write_figure(figure, tmp_path, "plain") if file.suffix == ".png"}
    with mpl.rc_context({"savefig.dpi": 33, "lines.linewidth": 9, "font.size": 20, "savefig.bbox": "tight"}):
        before = dict(mpl.rcParams)
        figure = accuracy_over_epsilon(table(record("net", 100)))
        (own,) = {file.read_bytes() for file in write_figure(figure, tmp_path, "own") if file.suffix == ".png"}
        assert dict(mpl.rcParams) == before
    assert own == plain


def test_settings_are_restored_when_drawing_fails() -> None:
    before = dict(mpl.rcParams)
    with pytest.raises(ZeroDivisionError), styled():
        raise ZeroDivisionError
    assert dict(mpl.rcParams) == before


def plain_figure() -> Figure:
    figure = Figure(figsize=(1, 1), dpi=20)
    figure.subplots()
    return figure


def test_a_full_disk_leaves_what_was_there_and_nothing_by_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(b"before")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(RequestError, match=rf"^the disk of {re.escape(str(tmp_path))} is full: free some space"):
        write_figure(plain_figure(), tmp_path, "a")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("a.png", b"before")]


def test_a_folder_that_cannot_be_written_is_said_to_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(RequestError, match=r"cannot be written \(Permission denied\): choose another folder"):
        write_figure(plain_figure(), tmp_path, "a")
    assert not list(tmp_path.iterdir())


def test_a_file_where_the_folder_should_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "figures").write_text("mine", encoding="utf-8")
    with pytest.raises(RequestError, match="figures"):
        write_figures(run_of([record("net", 100)], tmp_path))
    assert (tmp_path / "figures").read_text(encoding="utf-8") == "mine"


# Which images


def numbers(fell: Sequence[int], withstood: Sequence[int], wrong: Sequence[int] = (), **asked: Any) -> list[int]:
    """Indices of the images chosen of those that fell, withstood, and were misclassified before any attack."""
    pictures = [
        *(picture(image) for image in fell),
        *(picture(image, after=0) for image in withstood),
        *(picture(image, before=2, after=2) for image in wrong),
    ]
    rows = rows_of("cell 0", sorted(pictures, key=lambda one: one.image))
    return [one.image for one in chosen(rows, **asked)]


def test_both_fates_are_shown_in_the_order_of_the_dataset() -> None:
    assert numbers(range(0, 20, 2), range(1, 20, 2)) == [0, 1, 2, 3, 4, 5]
    assert numbers(range(10), range(10, 20)) == [0, 1, 2, 10, 11, 12]
    assert numbers(range(10, 20), range(10)) == [0, 1, 2, 10, 11, 12]


def test_where_there_are_too_few_of_one_fate_the_other_fills_the_places() -> None:
    assert numbers([30], range(10)) == [0, 1, 2, 3, 4, 30]
    assert numbers(range(10), [30, 31]) == [0, 1, 2, 3, 30, 31]
    assert numbers([], range(10)) == [0, 1, 2, 3, 4, 5]
    assert numbers(range(10), []) == [0, 1, 2, 3, 4, 5]
    assert numbers([5], [4]) == [4, 5]
    assert numbers([], []) == []


def test_images_that_were_misclassified_before_come_last() -> None:
    assert numbers([30, 31, 32], [40, 41, 42], range(10)) == [30, 31, 32, 40, 41, 42]
    assert numbers([30], [40], range(10)) == [0, 1, 2, 3, 30, 40]
    assert COLUMNS == 6


def test_images_that_are_asked_for_are_shown_in_that_order_and_no_others() -> None:
    assert numbers(range(10), range(10, 20), images=(12, 3, 7)) == [12, 3, 7]
    many = tuple(range(9))
    assert numbers(range(10), (), images=many) == list(many)


def test_images_that_are_asked_for_are_the_columns_of_every_panel() -> None:
    similarities = similarities_of("cell 0", {"attack": [0.5, 0.6]})
    run = run_of(
        [record("net", 100), record("other", 90)], pictures={0: PICTURES, 1: PICTURES}, similarities=similarities
    )
    panels = [figure for name, figure in drawn(run, (92, 3)).items() if name.startswith(("panel", "changes"))]
    assert len(panels) == 3
    for panel in panels:
        heads = [text.get_text().split("\n")[0] for text in panel.figure.texts if text.get_text().startswith("image")]
        assert heads == ["image 92", "image 3"]


def test_an_image_that_was_not_pictured_is_refused_with_those_that_were(tmp_path: Path) -> None:
    run = run_of(
        [record("net", 100)],
        tmp_path,
        pictures={0: PICTURES},
        similarities=similarities_of("cell 0", {"attack": [0.5]}),
    )
    with pytest.raises(RequestError) as refused:
        write_report(run, figures=True, images=(3, 7))
    assert str(refused.value) == (
        "--images 7 was not pictured for cell 0: choose from 3, 14, 15, 92, or repeat the run with --images 7"
    )
    assert not list(tmp_path.iterdir())


def test_a_run_without_pictures_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="has no attacked images to picture: repeat it without --no-figures"):
        write_report(run_of([record("net", 100)], tmp_path), figures=True, images=(3,))
    assert not list(tmp_path.iterdir())


# What curves draw


def table(*rows: dict[str, Any]) -> pd.DataFrame:
    run = run_of(rows)
    return run.records.assign(cell=run.cells)


def lines_of(axes: Axes) -> dict[str, tuple[list[float], list[float]]]:
    """Abscissae and ordinates by what the line is called."""
    found: dict[str, tuple[list[float], list[float]]] = {}
    for line in axes.lines:
        assert isinstance(line, Line2D)
        found[str(line.get_label())] = (np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist())
    return found


def bands_of(axes: Axes) -> list[set[tuple[float, float]]]:
    """Corners of each band, rounded: there is no other way to read it back."""
    return [
        {(round(x, 9), round(y, 9)) for x, y in np.asarray(band.get_paths()[0].vertices)} for band in axes.collections
    ]


def bars_of(axes: Axes) -> list[set[tuple[float, float]]]:
    """Ends of each model's bars, rounded."""
    return [
        {(round(x, 9), round(y, 9)) for path in bars.get_paths() for x, y in np.asarray(path.vertices)}
        for bars in axes.collections
    ]


def corners(x: Sequence[float], bounds: Sequence[tuple[float, float]]) -> set[tuple[float, float]]:
    return {(round(place, 9), round(bound, 9)) for place, pair in zip(x, bounds, strict=True) for bound in pair}


def legend_of(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_accuracy_over_epsilon_starts_at_the_clean_one() -> None:
    rows = [record("net", 20, eps=1.5), record("other", 10, clean=198), record("net", 120, eps=0.25)]
    figure = accuracy_over_epsilon(table(*rows))
    (axes,) = figure.axes
    assert lines_of(axes) == {"net": ([0, 0.25, 1.5], [0.95, 0.6, 0.1]), "other": ([0, 0.5], [0.99, 0.05])}
    assert bars_of(axes) == [
        corners([0, 0.25, 1.5], [wilson(count, TOTAL) for count in (190, 120, 20)]),
        corners([0, 0.5], [wilson(count, TOTAL) for count in (198, 10)]),
    ]
    assert axes.get_xlabel() == "l2 epsilon (units of the pixel range)"
    assert legend_of(figure) == ["net", "other"]


def test_accuracy_is_the_worst_that_is_known() -> None:
    figure = accuracy_over_epsilon(table(record("net", 120, worst_correct=80, robust_accuracy_worst=0.4)))
    assert lines_of(figure.axes[0]) == {"net": ([0, 0.5], [0.95, 0.4])}


def test_accuracy_over_steps_is_in_the_order_of_steps() -> None:
    rows = [record("net", 50, steps=100), record("net", 80, steps=5), record("net", 60, steps=20)]
    figure = accuracy_over_steps(table(*rows, record("other", 10, steps=20)))
    (axes,) = figure.axes
    assert lines_of(axes) == {"net": ([5, 20, 100], [0.4, 0.3, 0.25]), "other": ([20], [0.05])}
    assert bars_of(axes)[0] == corners([5, 20, 100], [wilson(count, TOTAL) for count in (80, 60, 50)])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["5", "20", "100"]
    assert axes.get_ylabel() == "robust accuracy at l2 0.5"


def test_similarity_over_epsilon_draws_means_of_the_true_class_beside_both_controls() -> None:
    attack, noise, other = [0.25, 0.5, 0.75], [0.875, 1.0, 0.75], [0.5, 0.25, None]
    similarities = similarities_of("cell 1", {"attack": attack, "noise": noise, "other": other})
    similarities += similarities_of("cell 0", {"attack": [0.0, 0.25]})
    similarities += [row | {"image": 99, "counted": 0, "cosine": 0.0} for row in similarities]
    run = run_of([record("net", 20, eps=1.5), record("net", 120, eps=0.25)], similarities=similarities)
    figure = similarity_over_epsilon(run.records.assign(cell=run.cells), run.similarities)
    (axes,) = figure.axes
    assert lines_of(axes) == {
        "attacked": ([0, 0.25, 1.5], [1, 0.5, 0.125]),
        "random noise of the same size": ([0, 0.25], [1, 0.875]),
        "another image of the class": ([0, 0.25], [0.375, 0.375]),
    }
    half = t.ppf(0.975, df=2) * np.std(noise, ddof=1) / np.sqrt(3)
    assert bands_of(axes)[1] == corners([0, 0.25], [(1, 1), (0.875 - half, 0.875 + half)])
    assert legend_of(figure) == list(lines_of(axes))
    assert axes.get_title(loc="left") == "net"


def test_the_legend_names_what_any_panel_draws() -> None:
    # The first model's maps are of no direction under attack, as where it explains nothing.
    similarities = similarities_of("cell 0", {"attack": [None, None], "noise": [0.5, 0.75]})
    similarities += similarities_of("cell 1", {"attack": [0.25, 0.5], "noise": [0.5, 0.75], "other": [0.125, 0.25]})
    run = run_of([record("net", 20), record("other", 120)], similarities=similarities)
    figure = similarity_over_epsilon(run.records.assign(cell=run.cells), run.similarities)
    assert sorted(legend_of(figure)) == ["another image of the class", "attacked", "random noise of the same size"]


def test_a_panel_without_a_line_says_why_and_no_mark_is_told_that_is_not_drawn() -> None:
    similarities = similarities_of("cell 0", {"attack": [None, None], "noise": [None, None]})
    similarities += similarities_of("cell 1", {"attack": [0.25, 0.5]})
    run = run_of([record("net", 20, trust="suspect"), record("other", 120)], similarities=similarities)
    figure = similarity_over_epsilon(run.records.assign(cell=run.cells), run.similarities)
    empty, drawn = figure.axes
    assert [text.get_text() for text in empty.texts] == ["no two images have\nmaps to compare"]
    assert not drawn.texts
    assert "suspect" not in figure.get_supxlabel()


def test_maps_that_turn_round_are_still_in_the_picture() -> None:
    similarities = similarities_of("cell 0", {"attack": [-0.5, -0.75], "noise": [0.5, 0.75]})
    run = run_of([record("net", 20)], similarities=similarities)
    inside(similarity_over_epsilon(run.records.assign(cell=run.cells), run.similarities).axes)
    cosines = {"attack": -0.5}
    rows = [record(f"bcos-{b}", 100, b=b, **explained(cosines)) for b in (1.25, 2.5)]
    inside(over_b(table(*rows)).axes)


def inside(panels: Sequence[Axes]) -> None:
    for axes in panels:
        low, high = axes.get_ylim()
        for _, y in lines_of(axes).values():
            assert low <= min(y) <= max(y) <= high


def test_many_models_have_a_panel_each_and_no_empty_one_is_drawn() -> None:
    rows = [record(f"net-{number}", 20) for number in range(5)]
    similarities = [row for number in range(5) for row in similarities_of(f"cell {number}", {"attack": [0.25, 0.5]})]
    run = run_of(rows, similarities=similarities)
    figure = similarity_over_epsilon(run.records.assign(cell=run.cells), run.similarities)
    assert [axes.get_title(loc="left") for axes in figure.axes if axes.axison] == [
        f"net-{number}" for number in range(5)
    ]


def test_over_b_draws_accuracy_and_similarity_for_each_threat_and_training() -> None:
    rows = [
        record("b2.5", 40, b=2.5, **explained({"attack": 0.25})),
        record("b1.25", 100, b=1.25, **explained({"attack": 0.75})),
        record("b1.25-again", 60, b=1.25, **explained({"attack": 0.25})),
        record("b1.25-far", 20, b=1.25, eps=1.5, **explained({"attack": 0.125})),
        record("b1.25-adv", 180, b=1.25, training="adversarial", **explained({"attack": 0.875})),
    ]
    figure = over_b(table(*rows))
    accuracies, similarities = figure.axes
    near, far, adversarial = "l2 0.5, natural", "l2 1.5, natural", "l2 0.5, adversarial"
    assert named(accuracies) == {
        near: ([1.25, 2.5], [0.4, 0.2]),
        far: ([1.25], [0.1]),
        adversarial: ([1.25], [0.9]),
    }
    assert named(similarities) == {
        near: ([1.25, 2.5], [0.5, 0.25]),
        far: ([1.25], [0.125]),
        adversarial: ([1.25], [0.875]),
    }
    assert sorted(legend_of(figure)) == sorted([near, far, adversarial])
    # A mean may be of models that differ in more than B, so each of them is shown.
    points = [line for line in accuracies.lines if line.get_marker() != ""]
    assert {line.get_linestyle() for line in points} == {"None"}
    assert sorted((x, y) for line in points for x, y in np.asarray(line.get_xydata()).tolist()) == [
        (1.25, 0.1),
        (1.25, 0.3),
        (1.25, 0.5),
        (1.25, 0.9),
        (2.5, 0.2),
    ]


def named(axes: Axes) -> dict[str, tuple[list[float], list[float]]]:
    return {name: values for name, values in lines_of(axes).items() if not name.startswith("_")}


def test_over_b_has_ticks_where_models_are_and_accuracies_in_percent() -> None:
    rows = [record(f"b{b}", 100, b=b, **explained({"attack": 0.5})) for b in (1.0, 1.25, 2.0)]
    accuracies, similarities = over_b(table(*rows)).axes
    for axes in (accuracies, similarities):
        assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "1.25", "2"]
        assert axes.get_xticks().tolist() == [1.0, 1.25, 2.0]
    assert "100 %" in [label.get_text() for label in accuracies.get_yticklabels()]
    assert "1.0" in [label.get_text() for label in similarities.get_yticklabels()]


# What a reader must be able to tell apart


def box(figure: Figure, artist: Artist) -> Bbox:
    """Where something is, in shares of the figure."""
    return artist.get_window_extent(FigureCanvasAgg(figure).get_renderer()).transformed(figure.transFigure.inverted())  # type: ignore[no-untyped-call]


def similarity_of(names: Sequence[str]) -> Figure:
    similarities = [
        row
        for number in range(len(names))
        for row in similarities_of(f"cell {number}", {"attack": [0.25, 0.5], "noise": [0.5, 0.5], "other": [0.1, 0.2]})
    ]
    run = run_of([record(name, 20) for name in names], similarities=similarities)
    return similarity_over_epsilon(run.records.assign(cell=run.cells), run.similarities)


def over_b_of(names: Sequence[str]) -> Figure:
    rows = [record(name, 20, b=1.0 + n, training=name, **explained({"attack": 0.5})) for n, name in enumerate(names)]
    return over_b(table(*rows))


DRAWN: dict[str, Callable[[Sequence[str]], Figure]] = {
    "epsilon": lambda names: accuracy_over_epsilon(table(*(record(name, 20) for name in names))),
    "steps": lambda names: accuracy_over_steps(table(*(record(name, 20, steps=5) for name in names))),
    "distance": lambda names: accuracy_over_distance(
        pd.concat([distances_of(name, [0.5, None]) for name in names]), dict.fromkeys(names, "suspect")
    ),
    "similarity": similarity_of,
    "B": over_b_of,
}


@pytest.mark.parametrize("count", [1, 2, 14])
@pytest.mark.parametrize("what", DRAWN)
def test_no_legend_is_cut_and_none_covers_what_is_drawn(what: str, count: int) -> None:
    figure = DRAWN[what]([f"my_package.networks:robust_densenet121_wide_{number}" for number in range(count)])
    with styled():
        figure.draw_without_rendering()
    legend = box(figure, figure.legends[0])
    assert min(legend.x0, legend.y0) >= -0.001
    assert max(legend.x1, legend.y1) <= 1.001
    for axes in figure.axes:
        assert not legend.overlaps(axes.get_position())
        assert axes.get_position().height * figure.get_figheight() > 1


def test_names_above_panels_do_not_touch() -> None:
    figure = similarity_of(
        ["my_package.networks:robust_densenet121_wide", "cifar10jpeg-bcos-adv-linf-resnet20-b1.25", "other", "net"]
    )
    with styled():
        figure.draw_without_rendering()
    titles = [box(figure, axes._left_title) for axes in figure.axes]  # type: ignore[attr-defined]
    for left, right in pairwise(titles):
        assert left.x1 < right.x0
    assert titles[-1].x1 <= 1


@pytest.mark.parametrize("draw", [accuracy_over_epsilon, accuracy_over_steps])
def test_intervals_of_models_that_are_as_good_are_side_by_side(draw: Callable[[pd.DataFrame], Figure]) -> None:
    figure = draw(table(*(record(f"net-{number}", 100) for number in range(7))))
    with styled():
        figure.draw_without_rendering()
    (axes,) = figure.axes
    places = [bars.get_transform().transform(bars.get_paths()[-1].vertices)[0, 0] for bars in axes.collections]
    points = [line.get_transform().transform(line.get_xydata())[-1, 0] for line in axes.lines]
    assert places == pytest.approx(points)
    assert np.diff(places).min() > 2
    # The middle one is where the number is.
    assert places[3] == pytest.approx(axes.transData.transform((axes.lines[3].get_xdata()[-1], 0))[0])


def test_so_many_intervals_that_they_cover_each_other_are_left_out_and_that_is_said() -> None:
    few, many = ([record(f"net-{number}", 100) for number in range(count)] for count in (BARS, BARS + 1))
    assert len(accuracy_over_epsilon(table(*few)).axes[0].collections) == BARS
    assert not accuracy_over_epsilon(table(*many)).axes[0].collections
    assert "Bars are Wilson 95 % intervals" in drawn(run_of(few))["accuracy_over_epsilon_l2-pgd"].caption
    assert "Intervals are in the table" in drawn(run_of(many))["accuracy_over_epsilon_l2-pgd"].caption


def test_intervals_of_many_curves_are_bars_at_places_of_their_own() -> None:
    reached = [0.25, 0.5, 0.75, 1.0]
    (axes,) = accuracy_over_distance(
        pd.concat([distances_of(f"net-{n}", reached) for n in range(BANDS + 1)]),
        dict.fromkeys((f"net-{n}" for n in range(BANDS + 1)), "sound"),
    ).axes
    places = [x for bars in bars_of(axes) for x, _ in bars]
    assert len(set(places)) == (BANDS + 1) * PLACES
    for bars in bars_of(axes):
        for x in {x for x, _ in bars}:
            bounds = wilson(len([high for high in reached if high > x]), len(reached))
            assert corners([x], [bounds]) <= bars


def test_every_model_is_in_the_legend_whatever_it_is_called(tmp_path: Path) -> None:
    names = ["_hidden", "$x_1$", "<b>", "plain"]
    rows = table(*(record(name, 10 * place) for place, name in enumerate(names)))
    figure = accuracy_over_epsilon(rows)
    assert legend_of(figure) == names
    write_figure(figure, tmp_path, "curve")
    assert legend_of(accuracy_over_steps(rows)) == names


def test_a_long_name_of_a_model_leaves_room_for_its_curve(tmp_path: Path) -> None:
    figure = accuracy_over_epsilon(table(record("m" * 250, 100), record("mypackage.networks:robust_densenet121", 10)))
    write_figure(figure, tmp_path, "curve")
    assert figure.axes[0].get_position().width > 0.4


def test_curves_of_different_models_look_different_without_colour() -> None:
    figure = accuracy_over_epsilon(table(*(record(f"net-{number}", number) for number in range(8))))
    looks = {(line.get_marker(), str(line.get_linestyle())) for line in figure.axes[0].lines}
    assert len(looks) == 8


def test_numbers_are_said_for_those_who_cannot_see_them() -> None:
    run = run_of([record("net", 120, eps=0.25), record("net", 21, eps=1.5), record("other", 10)])
    figure = drawn(run)["accuracy_over_epsilon_l2-pgd"]
    assert figure.description == "net: 60.0% at 0.25, 10.5% at 1.5; other: 5.0% at 0.5"
    run = run_of([record("net", 80, steps=5), record("net", 60)])
    assert drawn(run)["accuracy_over_steps_l2-pgd_0.5"].description == "net: 40.0% at 5, 30.0% at 20"


def test_a_model_with_one_image_explained_has_no_interval_and_no_line() -> None:
    run = run_of([record("net", 20)], similarities=similarities_of("cell 0", {"attack": [0.25]}))
    figure = similarity_over_epsilon(run.records.assign(cell=run.cells), run.similarities)
    assert lines_of(figure.axes[0]) == {}


def test_drawing_leaves_the_run_as_it_was() -> None:
    run = run_of([record("net", 100)], pictures={0: PICTURES})
    records = run.records.copy()
    kept = replace(PICTURES[0], clean=replace(PICTURES[0].clean, pixels=PICTURES[0].clean.pixels.copy()))
    drawn(run)
    pd.testing.assert_frame_equal(run.records, records)
    np.testing.assert_array_equal(PICTURES[0].clean.pixels, kept.clean.pixels)


# Distances


def distances_of(model: str, reached: Sequence[float | None], norm: str = "l2") -> pd.DataFrame:
    rows = [distance_row(image, 0.0, high, 10, model=model, norm=norm) for image, high in enumerate(reached)]
    return pd.DataFrame([row.to_columns() for row in rows], columns=list(DistanceRow.columns()))


def test_accuracy_over_distance_falls_where_an_image_falls() -> None:
    # One misclassified when clean, two that fall together, one that never does.
    found = pd.concat([distances_of("net", [0.75, 0.0, 0.25, None, 0.25]), distances_of("other", [None, None])])
    figure = accuracy_over_distance(found, {"net": "sound", "other": "unchecked"})
    (axes,) = figure.axes
    # Of five images four stand at 0, two from 0.25 on, and one from 0.75 on.
    assert lines_of(axes)["net"] == ([0, 0.25, 0.25, 0.75], [0.8, 0.4, 0.4, 0.2])
    assert lines_of(axes)["other†"] == ([0], [1])
    assert {line.get_drawstyle() for line in axes.lines if isinstance(line, Line2D)} == {"steps-post"}
    assert bands_of(axes)[0] >= corners([0, 0.25, 0.75], [wilson(count, 5) for count in (4, 2, 1)])
    assert bands_of(axes)[1] == corners([0], [wilson(2, 2)])
    assert axes.get_xlabel() == "l2 epsilon (units of the pixel range)"
    assert legend_of(figure) == ["net", "other†"]


def test_the_band_of_accuracy_over_distance_has_the_steps_of_its_line() -> None:
    (axes,) = accuracy_over_distance(distances_of("net", [0.25, 0.75]), {"net": "sound"}).axes
    # Just before 0.75 one of two still stands: the band goes there at its height, and falls upright.
    low, high = wilson(1, 2)
    assert corners([0.75], [(low, high)]) <= bands_of(axes)[0]


# Marks


def marks_of(figure: Figure) -> set[tuple[str, float, float]]:
    """Each mark in a figure, and the point it stands beside."""
    texts = (text for axes in figure.axes for text in axes.texts if isinstance(text, Annotation))
    return {(text.get_text(), *map(float, text.xy)) for text in texts}


def told(figure: Figure) -> list[str]:
    """What is said below a figure."""
    return figure.get_supxlabel().split("\n")


TRUSTED: list[dict[str, Any]] = [
    record("net", 100, trust="suspect"),
    record("net", 50, eps=1.5, trust="unchecked"),
    record("other", 30, trust="sound", b=2.5),
]


def test_points_over_epsilon_have_the_mark_of_their_row_and_the_clean_one_has_none() -> None:
    figure = accuracy_over_epsilon(run_of(TRUSTED).records)
    assert marks_of(figure) == {("?", 0.5, 0.5), ("†", 1.5, 0.25)}
    assert told(figure) == ["; ".join(legend(["suspect", "unchecked"]))]


def test_points_over_steps_and_over_b_have_the_mark_of_their_row() -> None:
    over_steps = accuracy_over_steps(
        run_of([record("net", 100, trust="suspect"), record("net", 50, steps=100)]).records
    )
    assert marks_of(over_steps) == {("?", 20.0, 0.5)}
    exponents = run_of([record("a", 100, b=1.5, trust="suspect"), record("c", 50, b=2.5)]).records
    figure = over_b(exponents.assign(explanation_cosine_true_attack=[0.75, None]))
    assert marks_of(figure) == {("?", 1.5, 0.5), ("?", 1.5, 0.75)}
    assert told(over_steps) == told(figure) == legend(["suspect"])


def test_a_figure_of_sound_numbers_has_no_mark_and_explains_none() -> None:
    figure = accuracy_over_epsilon(run_of([record("net", 100)]).records)
    assert (marks_of(figure), told(figure)) == (set(), [""])


def test_captions_and_descriptions_keep_the_marks() -> None:
    figure = drawn(run_of(TRUSTED))["accuracy_over_epsilon_l2-pgd"]
    assert figure.description == "net: 50.0%? at 0.5, 25.0%† at 1.5; other: 15.0% at 0.5"
    assert all(line in figure.caption for line in legend(["suspect", "unchecked"]))


def test_a_curve_over_distance_is_as_trusted_as_the_least_of_the_runs_rows() -> None:
    rows = [record("net", 100), record("net", 50, eps=1.5, trust="suspect"), record("net", 50, norm="linf")]
    both = pd.concat([distances_of("net", [0.25, 0.75]), distances_of("net", [0.125], "linf")])
    figures = drawn(replace(run_of(rows), distances=both))
    assert legend_of(figures["distances_l2"].figure) == ["net?"]
    assert told(figures["distances_l2"].figure) == legend(["suspect"])
    assert figures["distances_l2"].description.endswith("?")
    assert legend_of(figures["distances_linf"].figure) == ["net"]


def test_distances_have_a_figure_for_each_norm_that_says_median_and_area() -> None:
    run = replace(
        run_of([record("net", 100, eps=1.0), record("net", 50, norm="linf", eps=0.25)]),
        distances=pd.concat(
            [distances_of("net", [0.25, 0.75, 0.5, 0.0]), distances_of("net", [None, None, 0.125], "linf")]
        ),
    )
    figures = drawn(run)
    assert figures["distances_l2"].description == "net: median 0.375, area 0.375"
    # Never, never, and half-way.
    assert figures["distances_linf"].description == "net: median inf, area 0.833"
    assert figures["distances_l2"].model is None
    assert lines_of(figures["distances_linf"].figure.axes[0]) == {"net": ([0, 0.125], [1, 2 / 3])}
    assert not [name for name in drawn(run_of([record("net", 100)])) if name.startswith("distances")]


# Who falls to whom


def transfers_of(cells: dict[str, int], shares: dict[tuple[str, str], float]) -> pd.DataFrame:
    """Rows by source and target, each of the target's cell."""
    rows = [
        ["pgd", "l2", "0.5", 20, source, target, 40, round(40 * share), share, 0.0, 1.0, f"cell {cells[target]}"]
        for (source, target), share in shares.items()
    ]
    return pd.DataFrame(rows, columns=list(TRANSFER_COLUMNS))


SHARES = {("b", "a"): 0.25, ("a", "a"): 0.75, ("a", "b"): 0.125, ("b", "b"): 1.0}


def test_the_matrix_has_the_sources_as_rows_and_the_targets_as_columns() -> None:
    axes, bar = transfer_matrix(transfers_of({"a": 0, "b": 1}, SHARES)).axes
    (image,) = axes.images
    np.testing.assert_array_equal(np.asarray(image.get_array()), [[0.75, 0.125], [0.25, 1.0]])
    assert image.get_clim() == (0, 1)
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [label.get_text() for label in labels] == ["a", "b"]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("made on", "tried on")
    said = {(text.get_position()[1], text.get_position()[0]): text.get_text() for text in axes.texts}
    assert said == {(0, 0): "75", (0, 1): "12", (1, 0): "25", (1, 1): "100"}
    assert bar.get_ylabel() == "attack succeeds"


def test_what_was_not_tried_is_empty_and_not_zero() -> None:
    shares = {pair: share for pair, share in SHARES.items() if pair != ("b", "a")} | {("gone", "a"): 0.5}
    axes, _ = transfer_matrix(transfers_of({"a": 0, "b": 1}, shares)).axes
    found = np.ma.filled(np.ma.masked_invalid(axes.images[0].get_array()), -1.0)
    np.testing.assert_array_equal(found, [[0.75, 0.125], [-1, 1.0]])
    assert len(axes.texts) == 3


def test_numbers_of_the_matrix_can_be_read_on_their_colour() -> None:
    axes, _ = transfer_matrix(transfers_of({"a": 0, "b": 1}, SHARES)).axes
    image = axes.images[0]
    for text in axes.texts:
        column, row = text.get_position()
        share = float(np.asarray(image.get_array())[int(row), int(column)])
        red, green, blue, _ = image.cmap(image.norm(share))
        brightness = 0.2126 * red + 0.7152 * green + 0.0722 * blue
        assert (text.get_color() == "black") == (brightness > 0.5)


@pytest.mark.parametrize("name", ["net", "my_package.networks:make_it", "m" * 60, "$x_1$ of <b> 模型"])
def test_names_in_a_matrix_are_not_cut_off_and_leave_room_for_it(name: str) -> None:
    figure = transfer_matrix(transfers_of({name: 0, "b": 1}, {(name, name): 0.5, ("b", "b"): 0.5}))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.draw_without_rendering()
    axes = figure.axes[0]
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        box = label.get_window_extent()
        assert min(box.x0, box.y0) > -1
        assert max(box.x1 - figure.bbox.x1, box.y1 - figure.bbox.y1) < 1
    # Two models: each cell has a third of an inch.
    assert axes.get_window_extent().width > 2 * figure.dpi / 3
    assert axes.get_window_extent().height > 2 * figure.dpi / 3
    assert axes.get_yticklabels()[0].get_text().replace("\n", "") == name


def test_every_threat_has_a_matrix_of_the_most_steps() -> None:
    rows = [record(model, 100, eps=eps, steps=steps) for eps in (0.25, 1.5) for model in "ab" for steps in (5, 20)]
    transfers = pd.concat(
        [
            transfers_of({"a": 1, "b": 3}, SHARES),
            transfers_of({"a": 5, "b": 7}, {pair: 1 - share for pair, share in SHARES.items()}),
            # Of fewer steps.
            transfers_of({"a": 0, "b": 2}, dict.fromkeys(SHARES, 0.0)),
        ]
    )
    figures = drawn(replace(run_of(rows), transfers=transfers))
    found = {name: figure for name, figure in figures.items() if name.startswith("transfer")}
    assert list(found) == ["transfer_l2-pgd_0.25", "transfer_l2-pgd_1.5"]
    near, far = found.values()
    np.testing.assert_array_equal(np.asarray(near.figure.axes[0].images[0].get_array()), [[0.75, 0.125], [0.25, 1.0]])
    np.testing.assert_array_equal(np.asarray(far.figure.axes[0].images[0].get_array()), [[0.25, 0.875], [0.75, 0.0]])
    assert near.description == "b to a: 25%; a to a: 75%; a to b: 12%; b to b: 100%"
    assert "40 images" in near.caption
    assert near.model is None


def test_a_run_without_transfers_has_no_matrix() -> None:
    assert not [name for name in drawn(run_of([record("a", 100), record("b", 100)])) if name.startswith("transfer")]
