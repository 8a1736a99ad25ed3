"""Curves over B: each line varies B alone; means, spread and single trainings of three measures."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.reports.curves import WORDS
from robustbench_bcos.reports.style import write_figure
from robustbench_bcos.reports.trade_off import trade_off_over_b
from robustbench_bcos.reports.trainings import trainings
from tests.reports.handmade import TOTAL, record
from tests.reports.test_comparison import source

ROBUST = {1.5: (100, 110, 120), 2.0: (130, 134, 144), 2.5: (90, 92, 94)}
OTHERS = (
    record("bcos-norm-none-seed0", 10, b=2.0),
    record("bcos-norm-none-seed1", 12, b=2.0),
    record("natural-seed0", 20),
    record("natural-seed1", 22),
)


def swept(series: str = "bcos", **changes: Any) -> list[dict[str, Any]]:
    return [
        record(f"{series}-b{b:g}-seed{seed}", count, b=b, clean=150 + seed + int(10 * b), **changes)
        for b, counts in ROBUST.items()
        for seed, count in enumerate(counts)
    ]


def similar(**changes: Any) -> dict[str, Any]:
    names = ("attack", "noise", "other")
    return {f"explanation_cosine_true_{name}": 0.9 - place / 10 for place, name in enumerate(names)} | changes


def rows(*listed: dict[str, Any]) -> pd.DataFrame:
    return trainings([source(*listed)])


def curves(axes: Axes) -> list[tuple[list[float], list[float]]]:
    """Lines, without the points of single trainings."""
    found = [line for line in axes.lines if line.get_linestyle() != "None"]
    return [(np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist()) for line in found]


def test_lines_are_means_over_trainings_and_other_recipes_are_left_out() -> None:
    clean, robust = trade_off_over_b(rows(*swept(), *OTHERS)).axes
    ((x, y),) = curves(robust)
    assert x == [1.5, 2.0, 2.5]
    assert y == pytest.approx([np.mean(counts) / TOTAL for counts in ROBUST.values()], rel=1e-12)  # rounding
    ((_, y),) = curves(clean)
    assert y == pytest.approx([(151 + 10 * b) / TOTAL for b in ROBUST], rel=1e-12)
    assert [label.get_text() for label in robust.get_xticklabels()] == ["1.5", "2", "2.5"]


def test_bands_are_a_deviation_to_each_side_and_points_are_trainings() -> None:
    _, robust = trade_off_over_b(rows(*swept())).axes
    (band,) = [drawn for drawn in robust.collections if isinstance(drawn, PolyCollection)]
    corners = band.get_paths()[0].vertices
    for b, counts in ROBUST.items():
        found = corners[corners[:, 0] == b][:, 1]
        shares = np.array(counts) / TOTAL
        expected = (shares.mean() - shares.std(ddof=1), shares.mean() + shares.std(ddof=1))
        assert (found.min(), found.max()) == pytest.approx(expected, rel=1e-12)
    (points,) = [line for line in robust.lines if line.get_linestyle() == "None"]
    drawn = sorted(map(tuple, np.asarray(points.get_xydata()).tolist()))
    assert drawn == sorted((b, count / TOTAL) for b, counts in ROBUST.items() for count in counts)


def test_every_threat_has_a_line_and_a_panel_of_similarities_with_both_controls() -> None:
    listed = [*swept(**similar()), *swept(norm="linf", **similar())]
    figure = trade_off_over_b(rows(*listed))
    clean, robust, *others = figure.axes
    assert (len(curves(clean)), len(curves(robust))) == (1, 2)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [WORDS[one] for one in ("attack", "noise", "other")]
    assert all(axes.get_legend() is None for axes in others)
    assert [axes.get_title(loc="left").split(",\n")[1] for axes in others] == [
        "pgd l2 0.5 20 steps",
        "pgd linf 0.5 20 steps",
    ]
    for axes in others:
        assert [y for _, y in curves(axes)] == [pytest.approx([value] * 3, rel=1e-12) for value in (0.9, 0.8, 0.7)]


def test_what_else_differs_is_another_line() -> None:
    listed = [*swept(), *swept("wide"), record("deep-b2-seed0", 5, b=2.0), record("deep-b2-seed1", 5, b=2.0)]
    _, robust = trade_off_over_b(rows(*listed)).axes
    assert len(curves(robust)) == 2
    legend = robust.get_legend()
    assert legend is not None
    assert [text.get_text().split(", ")[1] for text in legend.get_texts()] == ["bcos", "wide"]


@pytest.mark.parametrize(
    "listed",
    [OTHERS, [record(f"bcos-b2-seed{seed}", 90, b=2.0) for seed in (0, 1)], [record("web2", 90), record("web3", 90)]],
)
def test_without_recipes_that_differ_in_b_there_is_no_curve(listed: list[dict[str, Any]]) -> None:
    with pytest.raises(RequestError, match=r"^no recipes differ in B alone .*: leave --over-b out$"):
        trade_off_over_b(rows(*listed))


def test_a_single_training_is_drawn_without_a_warning(tmp_path: Path) -> None:
    listed = [record(f"bcos-b{b:g}-seed0", 90, b=b, **similar()) for b in (1.0, 2.0)]
    write_figure(trade_off_over_b(rows(*listed)), tmp_path, "over_b")
