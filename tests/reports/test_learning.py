"""Learning curves: the mean over trainings of a recipe, and their spread."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PolyCollection

from robustbench_bcos.reports.learning import learning_curves, read_logs
from robustbench_bcos.reports.style import write_figure

LOSSES = {"net-seed0": [0.8, 0.4, 0.2], "net-seed1": [0.6, 0.2, 0.1], "bcos-b2-fold0": [0.5, 0.25]}
ACCURACIES = {"net-seed0": [0.1, 0.5, 0.9], "net-seed1": [0.3, 0.7, 1.0], "bcos-b2-fold0": [0.2, 0.6]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, losses in LOSSES.items():
        log = pd.DataFrame({"number": range(1, len(losses) + 1), "loss": losses, "accuracy": ACCURACIES[name]})
        log.assign(seconds=1.5).to_csv(tmp_path / f"{name}.log.csv", index=False)
    (tmp_path / "net-seed0.toml").touch()
    return tmp_path


def test_logs_are_read_with_their_recipes(folder: Path) -> None:
    logs = read_logs(folder)
    for name, losses in LOSSES.items():
        same = logs[logs["model"] == name]
        assert same["loss"].tolist() == losses
        assert same["accuracy"].tolist() == ACCURACIES[name]
        assert same["number"].tolist() == list(range(1, len(losses) + 1))
    assert set(logs["recipe"]) == {"net", "bcos-b2"}
    assert set(read_logs(folder, ["*-seed1", "bcos*"])["model"]) == {"net-seed1", "bcos-b2-fold0"}


def test_a_line_is_the_mean_of_a_recipes_trainings(folder: Path) -> None:
    loss, accuracy = learning_curves(read_logs(folder)).axes
    for axes, values in ((loss, LOSSES), (accuracy, ACCURACIES)):
        bcos, net = axes.lines
        assert np.asarray(bcos.get_ydata()).tolist() == values["bcos-b2-fold0"]
        mean = np.mean([values["net-seed0"], values["net-seed1"]], axis=0)
        assert np.asarray(net.get_ydata()) == pytest.approx(mean, rel=1e-12)  # rounding
        assert np.asarray(net.get_xdata()).tolist() == [1, 2, 3]


def test_a_band_is_a_deviation_to_each_side_within_what_was_seen(folder: Path) -> None:
    _, axes = learning_curves(read_logs(folder)).axes
    band = [drawn for drawn in axes.collections if isinstance(drawn, PolyCollection)][1]
    corners = band.get_paths()[0].vertices
    at_two = corners[corners[:, 0] == 2][:, 1]
    deviation = np.std([0.5, 0.7], ddof=1)
    assert (at_two.min(), at_two.max()) == pytest.approx((0.6 - deviation, 0.6 + deviation), rel=1e-12)
    # 0.95 + 0.07 is beyond the best of the trainings.
    assert corners[corners[:, 0] == 3][:, 1].max() == 1.0


@pytest.mark.parametrize("name", ["$x", "_net", "a" * 80, "网络"])
def test_names_are_text_whatever_is_in_them(name: str, tmp_path: Path) -> None:
    logs = pd.DataFrame({"recipe": [name] * 2, "model": "m", "number": [1, 2], "loss": [0.5, 0.0], "accuracy": [0, 1]})
    figure = learning_curves(logs)
    (legend,) = figure.legends
    assert "".join(text.get_text() for text in legend.get_texts()).replace("\n", "") == name
    write_figure(figure, tmp_path, "curves")
