"""Accuracies of recipes that were trained several times, as violins."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from robustbench_bcos.reports.curves import mark_points, tell_marks
from robustbench_bcos.reports.style import COLOURS, styled


def training_violins(rows: pd.DataFrame) -> Figure:
    """A panel for each threat, a violin for each recipe with a point for each training, and a line at the mean.

    Args:
        rows: ``threat``, ``recipe``, ``accuracy`` and ``trust`` of each training.
    """
    threats, recipes = list(rows["threat"].unique()), list(rows["recipe"].unique())
    with styled():
        width = 1.2 + 0.9 * len(recipes) * len(threats)
        figure = Figure(figsize=(min(max(3.5, width), 16), 3.4), layout="constrained")
        for axes, threat in zip(
            figure.subplots(1, len(threats), sharey=True, squeeze=False).flat, threats, strict=True
        ):
            axes.set_title(threat, fontsize=7)
            for place, recipe in enumerate(recipes):
                found = rows[(rows["threat"] == threat) & (rows["recipe"] == recipe)]
                values = found["accuracy"].to_numpy()
                if len(values) > 1:
                    violin = axes.violinplot(values, [place], showmeans=True, showextrema=False)
                    for body in violin["bodies"]:
                        body.set_facecolor(COLOURS[place % len(COLOURS)])
                axes.plot([place] * len(values), values, "o", color="black", markersize=2.5)
                mark_points(axes, zip([float(place)] * len(values), values, found["trust"], strict=True), "black")
            axes.set_xticks(range(len(recipes)), recipes, rotation=30, ha="right", fontsize=7)
            axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
        figure.supylabel("robust accuracy", fontsize=8)
        tell_marks(figure, rows["trust"])
        return figure
