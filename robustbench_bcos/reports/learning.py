"""How training went: loss and accuracy by epoch, from the logs that ``train`` leaves beside its models."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, PercentFormatter

from robustbench_bcos.core.trainings import REPEATED, find_logs
from robustbench_bcos.reports.style import Line, legend_beside, lines, styled
from robustbench_bcos.training.logs import COLUMNS, read_log


def read_logs(folder: Path, patterns: Sequence[str] = ()) -> pd.DataFrame:
    """A row for each epoch of each training: ``recipe``, ``model``, ``number``, ``loss``, ``accuracy``.

    Args:
        folder: what ``train`` wrote to.
        patterns: names of models, or globs; by default all.

    Raises:
        RequestError: there is no log, none of that name, or one that is not a log.
    """
    logs = [
        read_log(file)[list(COLUMNS)].astype(float).assign(model=name, recipe=REPEATED.sub("", name))
        for name, file in find_logs(folder, patterns).items()
    ]
    return pd.concat(logs, ignore_index=True)


def learning_curves(logs: pd.DataFrame) -> Figure:
    """Two panels, loss and accuracy over epochs: a line for each recipe, the mean of its trainings.

    Bands are a standard deviation to each side. Both are of the training images as the network saw them: augmented
    and, in adversarial training, attacked; losses of another kind (``bce``, ``ce``) are on another scale.

    Args:
        logs: of :func:`read_logs`.
    """
    recipes = list(logs["recipe"].unique())
    with styled():
        figure = Figure(figsize=(8.4, 3.0), layout="constrained")
        loss, accuracy = figure.subplots(1, 2)
        for recipe, style in lines(recipes).items():
            same = logs[logs["recipe"] == recipe]
            for axes in (loss, accuracy):
                _curve(axes, same, "loss" if axes is loss else "accuracy", style._replace(marker=""), recipe)
        loss.set_yscale("log")
        loss.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        loss.yaxis.set_major_formatter("{x:g}")
        loss.yaxis.set_minor_formatter(NullFormatter())
        loss.set_title("loss in training")
        accuracy.set_title("accuracy in training")
        accuracy.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
        for axes in (loss, accuracy):
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        legend_beside(figure, loss)
        return figure


def _curve(axes: Axes, rows: pd.DataFrame, column: str, line: Line, label: str) -> None:
    by_epoch = rows.groupby("number")[column]
    means, deviations = by_epoch.mean(), by_epoch.std().fillna(0)
    x = means.index.to_numpy(dtype=float)
    axes.plot(x, means.to_numpy(), label=label, **line._asdict())
    # A loss cannot fall below 0, nor an accuracy rise above 1, and a band that did would stretch a logarithmic axis.
    low = (means - deviations).clip(lower=rows[column].min())
    high = (means + deviations).clip(upper=rows[column].max())
    axes.fill_between(x, low, high, color=line.color, alpha=0.15, lw=0)
