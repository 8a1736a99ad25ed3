"""Localisation scores: the table at the end of ``localise``, its files and its figures."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from rich.table import Table
from rich.text import Text

from robustbench_bcos.core.disk import made_below, slug, write_text
from robustbench_bcos.core.text import counted
from robustbench_bcos.localisation.rows import SUMMARY, ComparisonRow, LocalisationRow, ScoreRow
from robustbench_bcos.localisation.summary import as_table
from robustbench_bcos.reports.spreadsheet import csv_of
from robustbench_bcos.reports.style import COLOURS, legend_above, styled, write_figure

CELLS, COMPARISONS = "cells.csv", "comparisons.csv"

WORDS = {"clean": "clean", "attack": "attacked", "noise": "noise"}
"""Conditions in few words."""

PAIRS = 8
"""Models and methods in a line of a figure."""


def write_localisation(
    rows: Sequence[LocalisationRow],
    scores: Sequence[ScoreRow],
    differences: Sequence[ComparisonRow],
    folder: Path,
    *,
    figures: bool,
    formats: Sequence[str] = ("png",),
) -> list[Path]:
    """Write ``localisation.csv``, ``cells.csv``, ``comparisons.csv`` and the figures; each is replaced as a whole.

    Raises:
        RequestError: the disk is full, or the folder is not writable.
    """
    table, cells = as_table(LocalisationRow, rows), as_table(ScoreRow, scores)
    tables = {SUMMARY: table, CELLS: cells, COMPARISONS: as_table(ComparisonRow, differences)}
    written = [write_text(folder / name, csv_of(content)) for name, content in tables.items()]
    if not figures:
        return written
    home = made_below(folder, "figures")
    for measure, same in table.groupby("measure", sort=False):
        behind = cells[cells["measure"] == measure]
        written += write_figure(score_violins(same, behind), home, f"localisation_{slug(str(measure))}", formats)
    return written


def localisation_table(rows: Sequence[LocalisationRow], differences: Sequence[ComparisonRow]) -> Table:
    """Models and methods as rows; conditions, paired differences between them, floor and ceiling as columns."""
    first = rows[0]
    pictures = counted(first.pictures, "picture")
    title = f"Localisation in %: {first.measure}, {pictures} of game {first.game} from {first.dataset}"
    shown = Table(title=Text(title), title_justify="left", pad_edge=False)
    for head in ("model", "method"):
        shown.add_column(head, overflow="fold")
    conditions = dict.fromkeys((row.condition, row.norm, row.eps) for row in rows)
    threats = [(norm, eps) for condition, norm, eps in conditions if condition == "attack"]
    pairs = [(before, norm, eps) for norm, eps in threats for before in ("clean", "noise")]
    by_names = {(row.measure, row.first, row.second, row.norm, row.eps): row for row in differences}
    heads = [_head(*condition) for condition in conditions]
    for before, norm, eps in pairs:
        heads.append(f"{WORDS['attack']} - {before}" + (f" {norm} {eps}" if len(threats) > 1 else ""))
    for head in (*heads, "floor", "ceiling"):
        shown.add_column(Text(head), justify="right", overflow="fold")
    for (measure, model, method), same in _grouped(_controls_last(rows)).items():
        limits = next(iter(same.values()))
        if measure != first.measure:
            continue
        cells = [_stacked(same[condition]) if condition in same else Text() for condition in conditions]
        for before, norm, eps in pairs:
            row = by_names.get((measure, f"{model} {method} {before}", f"{model} {method} attack", norm, eps))
            cells.append(Text() if row is None else _difference(row))
        shown.add_row(
            Text("any model" if limits.control else model),
            Text(method),
            *cells,
            _percent(limits.floor),
            _percent(limits.ceiling),
        )
    return shown


def measures_table(rows: Sequence[LocalisationRow]) -> Table | None:
    """The other measures as columns, means alone, of one condition after the other; ``None`` where there are none."""
    first = rows[0]
    measures = list(dict.fromkeys(row.measure for row in rows if row.measure != first.measure))
    if not measures:
        return None
    conditions = dict.fromkeys((row.condition, row.norm, row.eps) for row in rows)
    heads = " / ".join(_head(*condition) for condition in conditions)
    shown = Table(title=Text(f"Other measures in %: {heads}"), title_justify="left", pad_edge=False)
    for head in ("model", "method"):
        shown.add_column(head, overflow="fold")
    for measure in measures:
        shown.add_column(Text(measure), justify="right", overflow="fold")
    grouped = _grouped(rows)
    for model, method, control in dict.fromkeys((row.model, row.method, row.control) for row in _controls_last(rows)):
        means = [[row.mean for row in grouped[measure, model, method].values()] for measure in measures]
        shown.add_row(
            Text("any model" if control else model), Text(method), *(" / ".join(map(_percent, some)) for some in means)
        )
    floors, ceilings = (
        [_percent(next(getattr(row, limit) for row in rows if row.measure == measure)) for measure in measures]
        for limit in ("floor", "ceiling")
    )
    shown.add_row("", "floor", *floors)
    shown.add_row("", "ceiling", *ceilings)
    return shown


def _controls_last(rows: Sequence[LocalisationRow]) -> list[LocalisationRow]:
    """Without the controls of all models but one, for which they are the same."""
    controls = [row for row in rows if row.control and row.model == rows[0].model]
    return [*(row for row in rows if not row.control), *controls]


def _grouped(
    rows: Sequence[LocalisationRow],
) -> dict[tuple[str, str, str], dict[tuple[str, str, str], LocalisationRow]]:
    """Rows by measure, model and method, and then by condition."""
    found: dict[tuple[str, str, str], dict[tuple[str, str, str], LocalisationRow]] = {}
    for row in rows:
        found.setdefault((row.measure, row.model, row.method), {})[row.condition, row.norm, row.eps] = row
    return found


def reading_notes(rows: Sequence[LocalisationRow]) -> list[str]:
    """What must be known to read the table, a sentence or two each."""
    notes = ["Below each number its 95 % interval, of differences in pairs: pictures drawn with replacement."]
    if any(row.condition != "clean" for row in rows):
        budgets = " and ".join(dict.fromkeys(row.budget for row in rows if row.budget))
        notes.append(
            f"Epsilon is for each {budgets}, noise has the same size, and the class that is explained stays the clean "
            "one. Below: regions still classified as their class / no longer."
        )
        told = [
            f"{row.model} {row.method} {row.norm} {row.eps} {_percent(row.mean_kept)} / {_percent(row.mean_lost)}"
            for row in rows
            if row.condition == "attack" and row.kept and row.lost and row.measure == rows[0].measure
        ]
        if told:
            notes.append(f"Under attack, mean of those still classified / of those no longer: {', '.join(told)}.")
    for kind in ("empty", "not_finite"):
        counts = {f"{row.model} {row.method} {row.condition}": getattr(row, kind) for row in rows}
        if found := ", ".join(f"{name} {count}" for name, count in counts.items() if count):
            notes.append(f"Maps that are {kind.replace('_', ' ')}: {found}.")
    return notes


def score_violins(rows: pd.DataFrame, cells: pd.DataFrame) -> Figure:
    """Violins with boxes: models and methods side by side, one for each condition, between floor and ceiling.

    Args:
        rows: of ``localisation.csv``, of one measure.
        cells: the scores behind them.
    """
    # Controls are the same for all models.
    rows = rows[~rows["control"] | (rows["model"] == rows["model"].iloc[0])]
    pairs = list(rows[["model", "method"]].drop_duplicates().itertuples(index=False, name=None))
    conditions = list(rows[["condition", "norm", "eps"]].drop_duplicates().itertuples(index=False, name=None))
    # As many in each line, as far as that goes.
    per_line = math.ceil(len(pairs) / math.ceil(len(pairs) / PAIRS))
    lines = [pairs[start : start + per_line] for start in range(0, len(pairs), per_line)]
    with styled():
        width = 1.2 + per_line * (0.5 + 0.3 * len(conditions))
        figure = Figure(figsize=(max(3.5, width), 3.2 * len(lines)), layout="constrained")
        for axes, line in zip(figure.subplots(len(lines), squeeze=False).flat, lines, strict=True):
            _draw_line(axes, line, conditions, rows, cells)
            axes.set_xlim(-0.6, per_line - 0.4)
        figure.supylabel(str(rows["measure"].iloc[0]), fontsize=8)
        labels: dict[str, Any] = {
            _head(condition, norm, eps): Patch(color=COLOURS[place % len(COLOURS)], alpha=0.6)
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
    # Ratios have no bound that all of them share.
    highest = max(1.0, float(cells["score"].max(skipna=True))) if rows["ceiling"].max() > 1 else 1.0
    axes.set_ylim(-0.02 * highest, 1.02 * highest)


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


def _head(condition: str, norm: str, eps: str) -> str:
    return " ".join([WORDS[condition], norm, eps]).strip()


def _difference(row: ComparisonRow) -> Text:
    interval = f"\n{100 * row.ci_low:+.1f} … {100 * row.ci_high:+.1f}"
    return Text.assemble(f"{100 * row.difference:+.1f}", (interval, "dim"))


def _stacked(row: LocalisationRow) -> Text:
    interval = "" if row.ci_low is None else f"\n{_percent(row.ci_low)}–{_percent(row.ci_high)}"
    lines = Text.assemble(_percent(row.mean), (interval, "dim"))
    if row.condition != "clean":
        lines.append(f"\n{row.kept} / {row.lost}", style="dim")
    return lines


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"
