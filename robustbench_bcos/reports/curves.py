"""Curves over epsilon, steps and B: accuracies, and similarity of explanations."""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from textwrap import fill
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from matplotlib.transforms import ScaledTranslation, Transform

from robustbench_bcos.core.statistics import summarise, wilson
from robustbench_bcos.reports.marks import legend, mark, marked
from robustbench_bcos.reports.style import COLOURS, Line, legend_above, legend_beside, lines, styled

MEASURE = "cosine"
"""The measure that is drawn; the others are in ``results.csv``."""

COMPARED = {
    "attack": Line(COLOURS[5], "o", "-"),
    "noise": Line(COLOURS[0], "s", "--"),
    "other": Line(COLOURS[6], "", ":"),
}
MOVED = {
    "explanation": COMPARED["attack"],
    "prediction": Line(COLOURS[2], "^", "-."),
    "noise": COMPARED["noise"],
    "other": COMPARED["other"],
}
WORDS = {
    "attack": "attacked",
    "explanation": "explanation attacked",
    "prediction": "prediction attacked",
    "noise": "random noise of the same size",
    "other": "another image of the class",
}

PANEL_WIDTH, PANEL_HEIGHT = 2.1, 1.9
ACROSS = 4

NAME_WIDTH = 24
"""Characters of a model's name that fit above a panel."""

APART, SPREAD = 4.0, 24.0
"""Points between the lines of two models, and between the first and the last at most."""

BARS = 12
"""Models whose intervals are drawn; those of more cannot be told apart."""

BANDS = 3
"""Curves whose intervals are bands; those of more would cover each other, and are bars at some places."""

CROWDED = 8
"""Values of B whose names do not fit beside each other."""

PLACES = 6
"""Bars of a curve."""


def accuracy_over_epsilon(records: pd.DataFrame) -> Figure:
    """Robust accuracy of each model over epsilon, from clean accuracy at 0, with Wilson 95 % intervals.

    Up to a dozen models are drawn some points beside each other, so that no interval hides another; those of more are
    left out.

    Args:
        records: rows of one norm and one way of attacking, at the most steps.
    """
    styles = lines(list(records["model"].unique()))
    with styled():
        figure, axes = _single(f"{records['norm'].iloc[0]} epsilon (units of the pixel range)", "robust accuracy")
        beside = _side_by_side(figure, axes, styles)
        for model, rows in _models(records):
            attacked = rows.to_dict("records")
            clean = attacked[0] | {"epsilon": 0.0, "worst_correct": attacked[0]["clean_correct"], "trust": ""}
            _accuracy_line(
                axes,
                styles[model],
                model=model,
                over="epsilon",
                rows=[clean, *attacked],
                counted="worst_correct",
                beside=beside.get(model),
            )
        legend_beside(figure, axes)
        tell_marks(figure, records["trust"])
        return figure


def accuracy_over_steps(records: pd.DataFrame) -> Figure:
    """Robust accuracy of each model over the number of steps, at one epsilon.

    Args:
        records: rows of one norm, epsilon and way of attacking.
    """
    styles = lines(list(records["model"].unique()))
    with styled():
        first = records.iloc[0]
        figure, axes = _single("steps", f"robust accuracy at {first['norm']} {first['eps']}")
        axes.set_xscale("log")
        counts = sorted(records["steps"].unique())
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.minorticks_off()
        beside = _side_by_side(figure, axes, styles)
        for model, rows in _models(records):
            # What each attack left by itself: the worst over everything tried is the same for all of them.
            ordered = rows.sort_values("steps").to_dict("records")
            _accuracy_line(
                axes,
                styles[model],
                model=model,
                over="steps",
                rows=ordered,
                counted="robust_correct",
                beside=beside.get(model),
            )
        legend_beside(figure, axes)
        tell_marks(figure, records["trust"])
        return figure


EMPTY = "no two images have\nmaps to compare"
"""What a panel says that would be empty: maps that are 0 everywhere have no direction."""


def similarity_over_epsilon(records: pd.DataFrame, similarities: pd.DataFrame) -> Figure:
    """Mean cosine between contribution maps for the true class, clean against attacked, a panel for each model.

    Beside it the two controls, without which it cannot be read: noise of the same size, and another image of the
    class. Bands are 95 % t intervals of the mean over images.

    Args:
        records: rows of one norm and one way of attacking, at the most steps, with a column ``cell``.
        similarities: rows of ``explanations.csv``.
    """
    models = list(records["model"].unique())
    trusts: list[str] = []
    with styled():
        figure, grid = _grid(len(models))
        found = similarities[(similarities["explained_class"] == "true") & (similarities["counted"] == 1)]
        values = {key: same.dropna() for key, same in found.groupby(["comparison", "cell"])[MEASURE]}
        for axes, model in zip(grid, models, strict=True):
            rows = records[records["model"] == model].sort_values("epsilon")
            axes.set_title(fill(model, NAME_WIDTH), fontsize=7)
            for comparison, line in COMPARED.items():
                known = [
                    (epsilon, values.get((comparison, cell)), trust)
                    for epsilon, cell, trust in zip(rows["epsilon"], rows["cell"], rows["trust"], strict=True)
                ]
                measured = [(epsilon, same, trust) for epsilon, same, trust in known if same is not None]
                measured = [point for point in measured if len(point[1]) > 1]
                _similarity_line(axes, [(epsilon, same) for epsilon, same, _ in measured], comparison, line)
                if comparison == "attack":
                    points = [(epsilon, float(same.mean()), trust) for epsilon, same, trust in measured]
                    mark_points(axes, points, line.color)
                    trusts += [trust for _, _, trust in points]
            if not axes.lines:
                axes.text(0.5, 0.5, EMPTY, ha="center", va="center", fontsize=7, transform=axes.transAxes)
        _limit(grid)
        norm = records["norm"].iloc[0]
        figure.supxlabel(f"{norm} epsilon (units of the pixel range)", fontsize=8)
        figure.supylabel("mean cosine of maps", fontsize=8)
        tell_marks(figure, trusts)
        labelled = {str(line.get_label()): line for axes in grid for line in axes.lines}
        legend_above(figure, labelled)
        return figure


def fooled_over_epsilon(fooled: pd.DataFrame, images: pd.DataFrame) -> Figure:
    """Mean cosine with the clean map over epsilon where explanations are attacked, a panel for each model and method.

    Beside it the attack on the prediction, noise of the same size, and another image of the class. Bands are 95 % t
    intervals of the mean over images.

    Args:
        fooled: rows of ``fooled.csv`` of one norm, goal and way of attacking.
        images: rows of ``fooled_images.csv`` of that goal.
    """
    pairs = list(dict.fromkeys(zip(fooled["model"], fooled["method"], strict=True)))
    values = {key: same.dropna() for key, same in images.groupby(["method", "comparison", "cell"])[MEASURE]}
    with styled():
        figure, grid = _grid(len(pairs))
        for axes, (model, method) in zip(grid, pairs, strict=True):
            rows = fooled[(fooled["model"] == model) & (fooled["method"] == method)].sort_values("epsilon")
            axes.set_title(f"{fill(str(model), NAME_WIDTH)}\n{method}", fontsize=7)
            for comparison, line in MOVED.items():
                known = [
                    (float(epsilon), values[method, comparison, cell])
                    for epsilon, cell in zip(rows["epsilon"], rows["cell"], strict=True)
                    if len(values.get((method, comparison, cell), ())) > 1
                ]
                _similarity_line(axes, known, comparison, line)
            means = zip(rows["epsilon"], rows[f"{MEASURE}_explanation"].astype(float), rows["trust"], strict=True)
            mark_points(axes, means, MOVED["explanation"].color)
        _limit(grid)
        figure.supxlabel(f"{fooled['norm'].iloc[0]} epsilon (units of the pixel range)", fontsize=8)
        figure.supylabel("mean cosine of maps", fontsize=8)
        tell_marks(figure, fooled["trust"])
        legend_above(figure, {str(line.get_label()): line for axes in grid for line in axes.lines})
        return figure


def accuracy_over_distance(distances: pd.DataFrame, trusts: Mapping[str, str]) -> Figure:
    """Share of images that no smaller perturbation was found to break, over epsilon, with Wilson intervals.

    Args:
        distances: rows of ``distances.csv`` of one norm.
        trusts: of each model's curve.
    """
    styles = lines(list(distances["model"].unique()))
    with styled():
        figure, axes = _single(f"{distances['norm'].iloc[0]} epsilon (units of the pixel range)", "robust accuracy")
        farthest = float(distances["high"].max())
        for model, found in distances.groupby("model", sort=False):
            reached = np.sort(found["high"].astype(float).fillna(np.inf).to_numpy())
            finite = reached[np.isfinite(reached)]
            x = [0.0, *finite[finite > 0].tolist()]
            standing = [int((reached > epsilon).sum()) for epsilon in x]
            line = styles[str(model)]._replace(marker="")
            fractions = [count / len(reached) for count in standing]
            label = marked(str(model), trusts[str(model)])
            axes.plot(x, fractions, drawstyle="steps-post", label=label, **line._asdict())
            if len(styles) <= BANDS:
                _band(axes, line, x, [wilson(count, len(reached)) for count in standing], step="post")
            else:
                share = (list(styles).index(str(model)) + 0.5) / len(styles)
                places = (np.arange(PLACES) + share) * farthest / PLACES
                lows, highs = zip(
                    *(wilson(int((reached > place).sum()), len(reached)) for place in places), strict=True
                )
                axes.vlines(places, lows, highs, color=line.color, lw=1)
        legend_beside(figure, axes)
        tell_marks(figure, trusts.values())
        return figure


def transfer_matrix(transfers: pd.DataFrame) -> Figure:
    """Share of images on which adversarial examples made on one model (rows) succeed on another (columns).

    Args:
        transfers: rows of ``transfer.csv`` of one threat.
    """
    models = list(transfers["target"].unique())
    shares = transfers.pivot(index="source", columns="target", values="share").reindex(index=models, columns=models)
    with styled():
        names = [fill(model, 24) for model in models]
        # Letters of this size are 0.06 inches wide; below the matrix they are turned.
        room = 0.06 * max(len(line) for name in names for line in name.splitlines())
        size = 0.9 + 0.55 * len(models)
        figure = Figure(figsize=(size + 1.2 + room, size + 0.75 * room), layout="constrained")
        axes = figure.subplots()
        axes.grid(visible=False)
        image = axes.imshow(shares.to_numpy(dtype=float), vmin=0, vmax=1, cmap="cividis")
        for (row, column), share in np.ndenumerate(shares.to_numpy(dtype=float)):
            if np.isfinite(share):
                colour = "black" if share > 0.5 else "white"
                axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", color=colour, fontsize=7)
        axes.set_xticks(range(len(models)), names, rotation=45, ha="right", fontsize=7)
        axes.set_yticks(range(len(models)), names, fontsize=7)
        axes.set_xlabel("tried on")
        axes.set_ylabel("made on")
        figure.colorbar(image, format=PercentFormatter(1, symbol=" %"), label="attack succeeds")
        return figure


def over_b(records: pd.DataFrame) -> Figure:
    """Robust accuracy, and similarity of explanations under attack, over the exponent B.

    Points are models, lines their means: models of one B may differ in more than that.

    Args:
        records: rows of models that have a B, one for each model and threat.
    """
    panels = {
        "robust accuracy": "robust_accuracy_worst",
        "mean cosine of maps, attacked": f"explanation_{MEASURE}_true_attack",
    }
    threats = [f"{norm} {eps}" for norm, eps in zip(records["norm"], records["eps"], strict=True)]
    named = records.assign(line=[f"{t}, {training}" for t, training in zip(threats, records["training"], strict=True)])
    styles = lines(list(named["line"].unique()))
    exponents = sorted(named["b"].unique())
    with styled():
        figure = Figure(figsize=(6.4, 2.9), layout="constrained")
        for axes, (label, column) in zip(figure.subplots(1, 2), panels.items(), strict=True):
            labelled: dict[str, Any] = {}
            for name, rows in named.groupby("line", sort=False):
                means, style = rows.groupby("b")[column].mean(), styles[str(name)]
                (line,) = axes.plot(
                    means.index.to_numpy(), means.to_numpy(), label=name, **style._replace(marker="")._asdict()
                )
                (points,) = axes.plot(
                    rows["b"].to_numpy(), rows[column].to_numpy(), ls="", color=style.color, marker=style.marker
                )
                labelled[str(name)] = (line, points)
                mark_points(axes, zip(rows["b"], rows[column].astype(float), rows["trust"], strict=True), style.color)
            axes.set_xlabel("B")
            axes.set_xticks(exponents, [f"{b:g}" for b in exponents], rotation=90 if len(exponents) > CROWDED else 0)
            axes.set_ylabel(label)
            _limit([axes])
            if column == "robust_accuracy_worst":
                axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
        legend_above(figure, labelled)
        tell_marks(figure, records["trust"])
        return figure


def mark_points(
    axes: Axes, points: Iterable[tuple[float, float, str]], color: str, place: Transform | None = None
) -> None:
    """Put beside each point the mark of the row that it comes from.

    Args:
        axes: what they are drawn in.
        points: abscissa, ordinate and trust; an ordinate that is not finite is not drawn.
        color: of their line.
        place: where numbers are drawn; by default where they are.
    """
    for x, y, trust in points:
        if mark(trust) and math.isfinite(y):
            at = place or axes.transData
            axes.annotate(mark(trust), (x, y), (2, 2), at, "offset points", color=color, fontsize=8, weight="bold")


def tell_marks(figure: Figure, trusts: Iterable[str]) -> None:
    """Say below a figure what the marks in it mean."""
    lines = filter(None, [figure.get_supxlabel(), "; ".join(legend(trusts))])
    figure.supxlabel("\n".join(lines), fontsize=7)


def _single(x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_ylim(-0.02, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    return figure, axes


def _grid(count: int) -> tuple[Figure, list[Axes]]:
    across = min(count, ACROSS)
    down = -(-count // across)
    figure = Figure(figsize=(max(4.0, across * PANEL_WIDTH), down * PANEL_HEIGHT + 0.5), layout="constrained")
    grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    flat = list(grid.flat)
    for spare in flat[count:]:
        spare.set_axis_off()
    return figure, flat[:count]


def _limit(panels: Sequence[Axes]) -> None:
    """From 0 to 1, or from below where a cosine is negative."""
    low = min(0.0, *(axes.dataLim.y0 for axes in panels))
    for axes in panels:
        axes.set_ylim(low - 0.05, 1.05)


def _models(records: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    return [(str(model), rows.sort_values("epsilon")) for model, rows in records.groupby("model", sort=False)]


def _side_by_side(figure: Figure, axes: Axes, names: Iterable[str]) -> dict[str, Transform]:
    """For each name, where to draw numbers: some points apart, the middle one where the numbers are.

    Nothing where there are so many that not even this would tell their intervals apart.
    """
    listed = list(names)
    if len(listed) > BARS:
        return {}
    apart = min(APART, SPREAD / max(1, len(listed) - 1))
    offsets = [apart * (place - (len(listed) - 1) / 2) for place in range(len(listed))]
    return {
        name: axes.transData + ScaledTranslation(offset / 72, 0, figure.dpi_scale_trans)
        for name, offset in zip(listed, offsets, strict=True)
    }


def _accuracy_line(
    axes: Axes,
    line: Line,
    *,
    model: str,
    over: str,
    rows: Sequence[Mapping[Hashable, Any]],
    counted: str,
    beside: Transform | None,
) -> None:
    x = [float(row[over]) for row in rows]
    place = beside or axes.transData
    y = [row[counted] / row["images"] for row in rows]
    axes.plot(x, y, label=model, transform=place, **line._asdict())
    mark_points(axes, zip(x, y, (row["trust"] for row in rows), strict=True), line.color, place)
    if beside is not None:
        lows, highs = zip(*(wilson(row[counted], row["images"]) for row in rows), strict=True)
        axes.vlines(x, lows, highs, color=line.color, lw=1, transform=place)
    # Lines drawn beside their numbers do not say how far the axis must reach.
    axes.update_datalim([(value, 0) for value in x])
    axes.autoscale_view(scaley=False)


def _similarity_line(axes: Axes, measured: Sequence[tuple[float, pd.Series]], comparison: str, line: Line) -> None:
    """A line over the epsilons at which similarities of several images are known."""
    if not measured:
        return
    x = [0.0, *(epsilon for epsilon, _ in measured)]
    means = [found.mean() for _, found in measured]
    bounds = [summarise(found.tolist()).interval for _, found in measured]
    # Nothing moves at epsilon 0; another image is as far away there as anywhere.
    moves = comparison != "other"
    axes.plot(x, [1.0 if moves else means[0], *means], label=WORDS[comparison], **line._asdict())
    _band(axes, line, x, [(1.0, 1.0) if moves else bounds[0], *bounds])


def _band(
    axes: Axes,
    line: Line,
    x: Sequence[float],
    bounds: Sequence[tuple[float, float]],
    step: Literal["post"] | None = None,
) -> None:
    lows, highs = [low for low, _ in bounds], [high for _, high in bounds]
    axes.fill_between(x, lows, highs, color=line.color, alpha=0.12, lw=0, step=step)
