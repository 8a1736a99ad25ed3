"""Localisation scores: the table at the end of ``localise``, its files and its figures."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from rich.table import Table
from rich.text import Text

from robustbench_bcos.core.disk import made_below, slug, write_text
from robustbench_bcos.localisation.rows import LocalisationRow, ScoreRow
from robustbench_bcos.reports.spreadsheet import csv_of
from robustbench_bcos.reports.style import COLOURS, legend_above, styled, write_figure

SUMMARY, CELLS = "localisation.csv", "cells.csv"

WORDS = {"clean": "clean", "attack": "attacked", "noise": "noise of the same size"}
"""Conditions in few words."""

PAIRS = 8
"""Models and methods in a line of a figure."""

R = TypeVar("R", LocalisationRow, ScoreRow)


def write_localisation(
    rows: Sequence[LocalisationRow],
    scores: Sequence[ScoreRow],
    folder: Path,
    *,
    figures: bool,
    formats: Sequence[str] = ("png",),
) -> list[Path]:
    """Write ``localisation.csv``, ``cells.csv`` and the figures; each is replaced as a whole.

    Raises:
        RequestError: the disk is full, or the folder is not writable.
    """
    table, cells = _table(rows), _table(scores)
    written = [write_text(folder / SUMMARY, csv_of(table)), write_text(folder / CELLS, csv_of(cells))]
    if not figures:
        return written
    home = made_below(folder, "figures")
    for measure, same in table.groupby("measure", sort=False):
        behind = cells[cells["measure"] == measure]
        written += write_figure(score_violins(same, behind), home, f"localisation_{slug(str(measure))}", formats)
    return written


def localisation_table(rows: Sequence[LocalisationRow]) -> Table:
    """Models and methods as rows; a column for each condition, floor and ceiling beside them; intervals below."""
    first = rows[0]
    counted = f"{first.pictures} pictures" if first.game != "grid" else f"{first.pictures} grids"
    title = f"Localisation in %: {first.measure} of {counted} of {first.dataset}"
    shown = Table(title=Text(title), title_justify="left", pad_edge=False)
    for head in ("model", "method"):
        shown.add_column(head, overflow="fold")
    conditions = _conditions(rows)
    for head in (*conditions.values(), "floor", "ceiling"):
        shown.add_column(Text(head), justify="right", overflow="fold")
    for measure in dict.fromkeys(row.measure for row in rows):
        for model, method in dict.fromkeys((row.model, row.method) for row in rows):
            same = {
                (row.condition, row.norm, row.eps): row
                for row in rows
                if (row.model, row.method, row.measure) == (model, method, measure)
            }
            if same:
                any_row = next(iter(same.values()))
                cells = [_stacked(same[condition]) if condition in same else Text() for condition in conditions]
                name = method if measure == first.measure else f"{method} ({measure})"
                shown.add_row(Text(model), Text(name), *cells, _percent(any_row.floor), _percent(any_row.ceiling))
    return shown


def reading_notes(rows: Sequence[LocalisationRow]) -> list[str]:
    """What must be known to read the table, a sentence or two each."""
    notes = ["Below each number its 95 % interval, pictures drawn with replacement."]
    if any(row.condition != "clean" for row in rows):
        notes.append(
            "Behind kept / lost: the regions that are still classified as their class, and those that are not."
        )
        budgets = dict.fromkeys(row.budget for row in rows if row.budget)
        notes.append(f"Epsilon is for each {' and '.join(budgets)}; the class that is explained stays the clean one.")
    for kind in ("empty", "not_finite"):
        counts = {f"{row.model} {row.method} {row.condition}": getattr(row, kind) for row in rows}
        if told := ", ".join(f"{name} {count}" for name, count in counts.items() if count):
            notes.append(f"Maps that are {kind.replace('_', ' ')}: {told}.")
    return notes


def score_violins(rows: pd.DataFrame, cells: pd.DataFrame) -> Figure:
    """Violins with boxes: models and methods side by side, one for each condition, between floor and ceiling.

    Args:
        rows: of ``localisation.csv``, of one measure.
        cells: the scores behind them.
    """
    pairs = list(rows[["model", "method"]].drop_duplicates().itertuples(index=False, name=None))
    conditions = list(rows[["condition", "norm", "eps"]].drop_duplicates().itertuples(index=False, name=None))
    lines = [pairs[start : start + PAIRS] for start in range(0, len(pairs), PAIRS)]
    with styled():
        width = 1.2 + min(len(pairs), PAIRS) * (0.5 + 0.3 * len(conditions))
        figure = Figure(figsize=(max(3.5, width), 3.2 * len(lines)), layout="constrained")
        for axes, line in zip(figure.subplots(len(lines), squeeze=False).flat, lines, strict=True):
            _draw_line(axes, line, conditions, rows, cells)
        figure.supylabel(str(rows["measure"].iloc[0]), fontsize=8)
        labels: dict[str, Any] = {
            " ".join([WORDS[condition], norm, eps]).strip(): Patch(color=COLOURS[place % len(COLOURS)], alpha=0.6)
            for place, (condition, norm, eps) in enumerate(conditions)
        }
        labels["no information"] = Line2D([], [], color="black", linestyle="--", linewidth=0.8)
        labels["oracle"] = Line2D([], [], color="black", linestyle=":", linewidth=0.8)
        legend_above(figure, labels)
        return figure


def _draw_line(
    axes: Axes,
    pairs: Sequence[tuple[str, str]],
    conditions: Sequence[tuple[str, str, str]],
    rows: pd.DataFrame,
    cells: pd.DataFrame,
) -> None:
    width = 0.8 / len(conditions)
    for place, (model, method) in enumerate(pairs):
        of_pair = cells[(cells["model"] == model) & (cells["method"] == method)]
        for number, (condition, norm, eps) in enumerate(conditions):
            same = (of_pair["condition"] == condition) & (of_pair["threat"] == f"{norm} {eps}".strip())
            values = of_pair.loc[same, "score"].dropna().to_numpy()
            if len(values):
                _violin(axes, values, place - 0.4 + width * (number + 0.5), width, COLOURS[number % len(COLOURS)])
        limits = rows[(rows["model"] == model) & (rows["method"] == method)]
        for column, dashes in (("floor", "--"), ("ceiling", ":")):
            axes.hlines(limits[column].mean(), place - 0.45, place + 0.45, color="black", linestyle=dashes, lw=0.8)
    axes.set_xticks(range(len(pairs)), [f"{model}\n{method}" for model, method in pairs], rotation=20, ha="right")
    axes.tick_params(axis="x", labelsize=7)
    axes.grid(axis="x", visible=False)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlim(-0.6, len(pairs) - 0.4)


def _violin(axes: Axes, values: Any, place: float, width: float, colour: str) -> None:  # noqa: ANN401 (an array)
    if values.min() < values.max():
        violin = axes.violinplot(values, [place], widths=0.95 * width, showextrema=False)
        bodies: Any = violin["bodies"]
        for body in bodies:
            body.set(facecolor=colour, alpha=0.45)
    axes.boxplot(
        [values],
        positions=[place],
        widths=0.25 * width,
        showfliers=False,
        manage_ticks=False,
        patch_artist=True,
        boxprops={"facecolor": colour, "linewidth": 0.6},
        whiskerprops={"linewidth": 0.6},
        capprops={"linewidth": 0},
        medianprops={"color": "black", "linewidth": 1},
    )


def _conditions(rows: Sequence[LocalisationRow]) -> dict[tuple[str, str, str], str]:
    found = dict.fromkeys((row.condition, row.norm, row.eps) for row in rows)
    return {key: " ".join([WORDS[key[0]], key[1], key[2]]).strip() for key in found}


def _stacked(row: LocalisationRow) -> Text:
    interval = "" if row.ci_low is None else f"\n{_percent(row.ci_low)}–{_percent(row.ci_high)}"
    lines = Text.assemble(_percent(row.mean), (interval, "dim"))
    if row.condition != "clean":
        lines.append(f"\n{row.kept} / {row.lost}", style="dim")
    return lines


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _table(rows: Iterable[R]) -> pd.DataFrame:
    every = list(rows)
    return pd.DataFrame([asdict(row) for row in every], columns=[column.name for column in fields(every[0])])
