"""What the exponent B trades: clean accuracy, robust accuracy and similarity of explanations, over trainings."""

import re

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.reports.curves import COMPARED, MEASURE, WORDS, mark_points, tell_marks
from robustbench_bcos.reports.style import Line, lines, styled
from robustbench_bcos.reports.trainings import CLEAN, ROBUST, measured

EXPONENT = re.compile(r"-?\bb\d+(?:\.\d+)?(?=-|$| )")
"""How a recipe says its B in its name: ``bcos-b1.25``."""


def trade_off_over_b(rows: pd.DataFrame) -> Figure:
    """Three panels over B; points are trainings, lines their means, bands a standard deviation to each side.

    A line joins recipes whose names differ in the B alone, so that nothing else varies along it. Similarities are
    those for the true class, a panel for each threat, with both controls.

    Args:
        rows: of :func:`~robustbench_bcos.reports.trainings.trainings`.

    Raises:
        RequestError: no recipes differ in B alone.
    """
    found = rows.assign(series=[EXPONENT.sub("", recipe) for recipe in rows["recipe"]])
    found = found[found["b"].notna()]
    found = found[found.groupby("series")["b"].transform("nunique") > 1]
    if found.empty:
        raise RequestError("no recipes differ in B alone (names like mine-b1.5 and mine-b2): leave --over-b out")
    threats = list(found["threat"].unique())
    similar = [threat for threat in threats if _has_similarity(found[found["threat"] == threat])]
    with styled():
        figure = Figure(figsize=(2.5 * (2 + len(similar)), 3.1), layout="constrained")
        clean, robust, *others = figure.subplots(1, 2 + len(similar), squeeze=False).flat
        _accuracies(clean, found, CLEAN, "clean accuracy")
        _accuracies(robust, found, ROBUST, "robust accuracy, worst case")
        for axes, threat in zip(others, similar, strict=True):
            _similarities(axes, found[found["threat"] == threat], threat)
            axes.sharey(others[0])
        if others:
            figure.legend(*others[0].get_legend_handles_labels(), loc="outside upper right", ncols=3, fontsize=6)
        exponents = sorted(found["b"].unique())
        for axes in (clean, robust, *others):
            axes.set_xlabel("B")
            axes.set_xticks(exponents, [f"{b:g}" for b in exponents])
        tell_marks(figure, found["trust"])
        return figure


def _has_similarity(rows: pd.DataFrame) -> bool:
    return bool(rows[f"explanation_{MEASURE}_true_attack"].notna().any())


def _accuracies(axes: Axes, rows: pd.DataFrame, measure: str, title: str) -> None:
    found = measured(rows, measure)
    several = found["series"].nunique() > 1
    names = [
        ", ".join([threat, *([series] if several else [])])
        for threat, series in zip(found["threat"], found["series"], strict=True)
    ]
    styles = lines(list(dict.fromkeys(names)))
    for name, same in found.assign(line=names).groupby("line", sort=False):
        _curve(axes, same, styles[str(name)], str(name), marks=measure != CLEAN)
    axes.set_title(title)
    axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    if len(styles) > 1:
        axes.legend(fontsize=6, loc="best")


def _similarities(axes: Axes, rows: pd.DataFrame, threat: str) -> None:
    for comparison, line in COMPARED.items():
        found = measured(rows, f"explanation_{MEASURE}_true_{comparison}")
        for place, (_, same) in enumerate(found.groupby("series", sort=False)):
            label = WORDS[comparison] if place == 0 else ""
            _curve(axes, same, line, label, marks=comparison == "attack")
    axes.set_title(f"mean {MEASURE} of maps,\n{threat}")


def _curve(axes: Axes, rows: pd.DataFrame, line: Line, label: str, *, marks: bool) -> None:
    by_b = rows.groupby("b")["value"]
    means, deviations = by_b.mean(), by_b.std().fillna(0)
    x = means.index.to_numpy(dtype=float)
    axes.plot(x, means.to_numpy(), label=label or None, **line._asdict())
    axes.fill_between(x, means - deviations, means + deviations, color=line.color, alpha=0.15, lw=0)
    axes.plot(rows["b"].to_numpy(dtype=float), rows["value"].to_numpy(), ".", color=line.color, markersize=2)
    if marks:
        mark_points(axes, zip(rows["b"], rows["value"], rows["trust"], strict=True), line.color)
