"""Figures of forecasters, from the tables of a run alone."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from robustbench_bcos.core.disk import slug
from robustbench_bcos.reports.style import COLOURS, legend_above, legend_beside, lines, styled, write_figure

APART = ["model", "system", "trajectory", "time", "state", "prediction", "missing"]
"""Columns of contributions that are none themselves."""


def write_figures(
    results: pd.DataFrame, trajectories: pd.DataFrame, contributions: pd.DataFrame, folder: Path
) -> list[Path]:
    """All figures of a run.

    Args:
        results: as ``results.csv``.
        trajectories: as ``trajectories.csv``.
        contributions: as ``contributions.csv``.
        folder: where to.
    """
    variations = results.drop_duplicates("model").set_index("model")["variation"]
    named = trajectories.assign(variation=trajectories["model"].map(variations))
    written = []
    for system in named["system"].unique():
        own = named[named["system"] == system]
        written += write_figure(trajectory_bands(own), folder, f"trajectories_{slug(system)}")
        written += write_figure(phase_portraits(own), folder, f"phase_{slug(system)}")
    bcos = set(results[results["family"] == "bcos"].drop_duplicates(["dataset", "variation"])["model"])
    for model in contributions["model"].unique():
        if model in bcos:  # One of each variation; of conventional networks contributions sum to nothing.
            written += write_contributions(contributions[contributions["model"] == model], folder)
    written += write_figure(violins(results), folder, "violins")
    return written


def trajectory_bands(table: pd.DataFrame) -> Figure:
    """A panel for each state: the truth, and predictions of each variation with a band of a deviation over trainings.

    Thin dashes are the mean of the attacked predictions.
    """
    states, variations = list(table["state"].unique()), list(table["variation"].unique())
    with styled():
        figure = Figure(figsize=(3.2 * len(states) + 1.8, 2.6), layout="constrained")
        panels = figure.subplots(1, len(states), squeeze=False)[0]
        for axes, state in zip(panels, states, strict=True):
            own = table[(table["state"] == state) & (table["trajectory"] == 0)]
            truth = own.groupby("time")["truth"].first()
            axes.plot(truth.index, truth, color="black", linewidth=1.5, label="truth")
            for variation, style in lines(variations).items():
                by_time = own[own["variation"] == variation].groupby("time")[["prediction", "attacked"]]
                mean, deviation = by_time.mean(), by_time.std().fillna(0)
                axes.plot(mean.index, mean["prediction"], color=style.color, linestyle=style.linestyle, label=variation)
                low, high = (mean["prediction"] + sign * deviation["prediction"] for sign in (-1, 1))
                axes.fill_between(mean.index, low, high, color=style.color, alpha=0.2, linewidth=0)
                axes.plot(mean.index, mean["attacked"], color=style.color, linestyle=":", linewidth=0.8, label="_")
            margin = 0.5 * (truth.max() - truth.min())
            axes.set_ylim(truth.min() - margin, truth.max() + margin)
            axes.set_title(str(state))
            axes.set_xlabel("time")
        legend_above(figure, {str(line.get_label()): line for line in panels[0].lines if line.get_label() != "_"})
        return figure


def phase_portraits(table: pd.DataFrame) -> Figure:
    """The first two states against each other: the truth, and the mean prediction of each variation."""
    first, second = list(table["state"].unique())[:2]
    with styled():
        figure = Figure(figsize=(4.6, 2.8), layout="constrained")
        axes = figure.subplots()
        pairs = {"truth": table.assign(shown=table["truth"])}
        pairs |= {
            name: table[table["variation"] == name].assign(shown=lambda part: part["prediction"])
            for name in table["variation"].unique()
        }
        for name, style in lines(list(pairs)).items():
            means = pairs[name].groupby(["time", "state"])["shown"].mean().unstack()
            color = "black" if name == "truth" else style.color
            axes.plot(means[first], means[second], color=color, linestyle=style.linestyle, label=name)
        truth = pairs["truth"].groupby("state")["truth"].agg(["min", "max"])
        for state, limit in ((first, axes.set_xlim), (second, axes.set_ylim)):
            margin = 0.5 * (truth.loc[state, "max"] - truth.loc[state, "min"])
            limit(truth.loc[state, "min"] - margin, truth.loc[state, "max"] + margin)
        axes.set_xlabel(str(first))
        axes.set_ylabel(str(second))
        legend_beside(figure, axes)
        return figure


def write_contributions(table: pd.DataFrame, folder: Path) -> list[Path]:
    """The contributions of one model over time, as ``contributions_MODEL``."""
    (model,) = table["model"].unique()
    return write_figure(contributions_over_time(table), folder, f"contributions_{slug(model)}")


def contributions_over_time(table: pd.DataFrame) -> Figure:
    """A panel for each state: a line for what each input contributes, and one for their sum, the prediction."""
    own = table[table["trajectory"] == table["trajectory"].iloc[0]].dropna(axis=1, how="all")
    states, names = list(own["state"].unique()), [name for name in own.columns if name not in APART]
    with styled():
        figure = Figure(figsize=(3.2 * len(states) + 1.8, 2.6), layout="constrained")
        panels = figure.subplots(1, len(states), squeeze=False)[0]
        for axes, state in zip(panels, states, strict=True):
            part = own[own["state"] == state]
            axes.plot(part["time"], part["prediction"], color="0.7", linewidth=4, label="prediction, their sum")
            for name, style in lines(names).items():
                axes.plot(part["time"], part[name], color=style.color, linestyle=style.linestyle, label=name)
            axes.set_title(f"{state}, in units of its range")
            axes.set_xlabel("time")
        legend_beside(figure, panels[0])
        return figure


def violins(results: pd.DataFrame) -> Figure:
    """Relative error of each variation, a panel a system; a point for each training."""
    once = results.drop_duplicates("model")
    systems, variations = list(once["dataset"].unique()), list(once["variation"].unique())
    with styled():
        figure = Figure(figsize=(1.5 + 0.45 * len(variations) * len(systems), 3.2), layout="constrained")
        for axes, system in zip(figure.subplots(1, len(systems), squeeze=False)[0], systems, strict=True):
            axes.set_title(system)
            for place, variation in enumerate(variations):
                found = once[(once["dataset"] == system) & (once["variation"] == variation)]
                values = found["relative_error"].to_numpy()
                values = values[np.isfinite(values)]
                if len(values) > 1:
                    violin = axes.violinplot(np.log10(values), [place], showmeans=True, showextrema=False)
                    for body in violin["bodies"]:
                        body.set_facecolor(COLOURS[place % len(COLOURS)])
                axes.plot([place] * len(values), np.log10(values), "o", color="black", markersize=2.5)
            axes.set_xticks(range(len(variations)), variations, rotation=60, ha="right", fontsize=6)
            axes.yaxis.set_major_formatter(lambda value, _: f"{10**value:.2g}")
        figure.supylabel("relative error", fontsize=8)
        return figure
