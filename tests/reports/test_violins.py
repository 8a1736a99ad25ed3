"""Violins: a panel for each threat, a violin for each recipe, a point for each training."""

from itertools import product
from pathlib import Path

import matplotlib as mpl
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.text import Annotation

from robustbench_bcos.reports.marks import legend
from robustbench_bcos.reports.style import write_figure
from robustbench_bcos.reports.violins import training_violins

COUNTS = {
    ("pgd l2 0.5", "net"): [0.5, 0.75, 0.625],
    ("pgd l2 0.5", "bcos"): [0.25, 0.375],
    ("pgd linf 8/255", "net"): [0.0, 0.125],
    ("pgd linf 8/255", "bcos"): [1.0, 1.0, 1.0, 0.5],
}


def rows(accuracies: dict[tuple[str, str], list[float]]) -> pd.DataFrame:
    listed = [(threat, recipe, value) for (threat, recipe), values in accuracies.items() for value in values]
    return pd.DataFrame(listed, columns=["threat", "recipe", "accuracy"]).assign(trust="sound")


def points(axes: Axes) -> dict[str, list[float]]:
    """The accuracies above each recipe's name."""
    names = [label.get_text() for label in axes.get_xticklabels()]
    found: dict[str, list[float]] = {name: [] for name in names}
    for line in axes.lines:
        for place, value in line.get_xydata().tolist():
            found[names[int(place)]].append(value)
    return found


def violins(axes: Axes) -> list[PolyCollection]:
    return [drawn for drawn in axes.collections if isinstance(drawn, PolyCollection)]


def test_each_threat_has_a_panel_whose_points_are_the_accuracies() -> None:
    figure = training_violins(rows(COUNTS))
    assert [axes.get_title() or axes.get_title(loc="left") for axes in figure.axes] == ["pgd l2 0.5", "pgd linf 8/255"]
    for axes, threat in zip(figure.axes, ("pgd l2 0.5", "pgd linf 8/255"), strict=True):
        assert points(axes) == {recipe: COUNTS[threat, recipe] for recipe in ("net", "bcos")}
        assert len(violins(axes)) == 2


def test_a_line_marks_the_mean_of_the_trainings() -> None:
    axes, _ = training_violins(rows(COUNTS)).axes
    heights = [
        segment[0, 1]
        for drawn in axes.collections
        if isinstance(drawn, LineCollection)
        for segment in drawn.get_segments()
    ]
    assert heights == pytest.approx([0.625, 0.3125], abs=1e-12)  # rounding of a mean


def test_panels_share_the_axis_of_accuracies_in_percent() -> None:
    first, second = training_violins(rows(COUNTS)).axes
    assert first.get_ylim() == second.get_ylim()
    assert first.yaxis.get_major_formatter()(0.25) == "25 %"


def test_one_training_is_a_point_and_no_violin() -> None:
    (axes,) = training_violins(rows({("pgd l2 0.5", "net"): [0.5, 0.75], ("pgd l2 0.5", "single"): [0.625]})).axes
    assert points(axes) == {"net": [0.5, 0.75], "single": [0.625]}
    assert len(violins(axes)) == 1


def test_a_recipe_that_was_not_put_to_a_threat_leaves_its_place_empty() -> None:
    accuracies = {("pgd l2 0.5", "net"): [0.5, 0.75], ("pgd linf 1", "bcos"): [0.25, 0.375]}
    first, second = training_violins(rows(accuracies)).axes
    assert points(first) == {"net": [0.5, 0.75], "bcos": []}
    assert points(second) == {"net": [], "bcos": [0.25, 0.375]}


def test_violins_of_a_recipe_have_one_colour_in_every_panel_and_another_than_its_neighbour() -> None:
    figure = training_violins(rows(COUNTS))
    colours = [[tuple(violin.get_facecolor()[0]) for violin in violins(axes)] for axes in figure.axes]
    assert colours[0] == colours[1]
    assert colours[0][0] != colours[0][1]


@pytest.mark.parametrize("count", [1, 9])
def test_more_recipes_than_colours_and_more_threats_than_fit_are_drawn(count: int, tmp_path: Path) -> None:
    accuracies = {(f"t{t}", f"r{r}"): [r / 10, r / 10 + 0.05] for t, r in product(range(count), range(9))}
    figure = training_violins(rows(accuracies))
    assert len(figure.axes) == count
    assert figure.get_size_inches()[0] <= 16
    assert all(len(violins(axes)) == 9 for axes in figure.axes)


def test_trainings_that_do_not_vary_are_drawn_without_a_warning(tmp_path: Path) -> None:
    figure = training_violins(rows({("pgd l2 0.5", "net"): [0.5, 0.5, 0.5]}))
    assert points(figure.axes[0]) == {"net": [0.5, 0.5, 0.5]}
    write_figure(figure, tmp_path, "violins")


@pytest.mark.parametrize("name", ["$x", "$\\frac$", "50 % _of_ {all}", "back\\slash", "<b>&", "网络"])
def test_names_are_text_whatever_is_in_them(name: str, tmp_path: Path) -> None:
    figure = training_violins(rows({(f"t {name}", name): [0.5, 0.75]}))
    files = write_figure(figure, tmp_path, "violins")
    assert [file.name for file in files] == ["violins.png", "violins.pdf"]
    (label,) = figure.axes[0].get_xticklabels()
    assert label.get_text() == name
    assert not label.get_parse_math()


def test_a_training_has_the_mark_of_its_row_and_the_figure_explains_it() -> None:
    found = rows({("pgd l2 0.5", "net"): [0.5, 0.75]})
    figure = training_violins(found.assign(trust=["sound", "suspect"]))
    (mark,) = figure.axes[0].texts
    assert isinstance(mark, Annotation)
    assert (mark.get_text(), *mark.xy) == ("?", 0.0, 0.75)
    assert figure.get_supxlabel() == legend(["suspect"])[0]


def test_the_users_own_style_is_left_alone() -> None:
    before = dict(mpl.rcParams)
    training_violins(rows(COUNTS))
    assert dict(mpl.rcParams) == before
