"""Draws reproduction.png from reproduction.csv: robust accuracy over epsilon, for each network and each way of attack.

python docs/findings/draw_reproduction.py
"""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from robustbench_bcos.reports.style import STYLE

HERE = Path(__file__).parent
WAYS = {
    "as published": ("#D55E00", "s"),
    "encoded": ("#E69F00", "^"),
    "image": ("#0072B2", "o"),
    "worst": ("#000000", "D"),
}


def draw() -> None:
    """Write the figure next to the other images of the documentation."""
    rows = pd.read_csv(HERE / "reproduction.csv").query("norm == 'l2' and steps == 100")
    rows = rows.assign(epsilon=rows.eps.astype(float))
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(2, 3, figsize=(9, 5), sharex=True, sharey=True, layout="constrained")
        for axes, (model, of_model) in zip(grid.flat, rows.groupby("model", sort=False), strict=True):
            for shift, (way, (colour, marker)) in enumerate(WAYS.items()):
                line = of_model[of_model.way == way]
                errors = [line.robust_percent - line.low, line.high - line.robust_percent]
                axes.errorbar(
                    line.epsilon * 1.03**shift, line.robust_percent, errors, label=way, color=colour, marker=marker
                )
            axes.set(title=str(model).removeprefix("cifar10jpeg-"), xscale="log", xticks=[0.25, 0.5, 1, 2])
            axes.set_xticklabels(["0.25", "0.5", "1", "2"])
            axes.minorticks_off()
        grid[1, 0].legend()
        figure.supxlabel("l2 epsilon", fontsize=8)
        figure.supylabel("robust, % of 1,000 images", fontsize=8)
        figure.savefig(HERE.parent / "images" / "reproduction.png")


if __name__ == "__main__":
    draw()
