"""Draws localisation.png, and writes localisation.csv: accuracy, localisation and robust accuracy of each network.

With three trainings and more of a recipe, localisation_differences.csv has the differences to ``bcos-b2`` over
trainings: Welch's t-test, corrected by Holm for all rows.

python docs/findings/draw_localisation.py GRIDS ZOO [ATTACKED NAME]

GRIDS is the folder of `localise`, ZOO that of the cards of its models, which are called RECIPE-seedN. Accuracy is
the cards', over all test images; robust accuracy is over the images of the grids, or the worst case of ATTACKED, the
folder of a `run` at one radius, and files are called NAME then in place of localisation.
"""

import re
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from robustbench_bcos.core.statistics import holm, welch, welch_interval
from robustbench_bcos.model_zoo.cards import Zoo
from robustbench_bcos.reports.style import COLOURS, STYLE

HERE = Path(__file__).parent
REFERENCE = "bcos-b2"
TRAININGS = 3
"""The fewest that are compared."""

MEASURES = "accuracy", "localisation_clean", "localisation_noise", "localisation_attack", "lost_to_attack", "robust"
CONDITIONS = {"clean": ("o", "-"), "noise": ("D", ":"), "attack": ("s", "--")}


def table(grids: Path, zoo: Path, attacked_in: Path | None) -> pd.DataFrame:
    """A row for each model: what it was trained as, and its numbers."""
    rows = pd.read_csv(grids / "localisation.csv")
    wide = rows.pivot(index="model", columns="condition", values="mean").add_prefix("localisation_")
    attacked = rows[rows["condition"] == "attack"].set_index("model")
    if attacked_in is None:
        wide["robust"] = attacked["kept"] / attacked["regions"]
    else:
        results = pd.read_csv(attacked_in / "results.csv").set_index("model")
        wide["robust"], wide["trust"] = results["robust_accuracy_worst"], results["trust"]
    wide["empty_attacked"] = attacked["empty"]
    wide["grids"] = attacked["pictures"]
    wide["b"] = attacked["b"]
    clean = [Zoo((zoo,))[str(name)].card.clean_accuracy for name in wide.index]
    wide["accuracy"] = [accuracy and accuracy.correct / accuracy.total for accuracy in clean]
    wide["recipe"] = [re.sub(r"-seed\d+$", "", str(name)) for name in wide.index]
    wide["lost_to_attack"] = wide["localisation_noise"] - wide["localisation_attack"]
    return wide.reset_index()


def compare(rows: pd.DataFrame) -> pd.DataFrame:
    """Differences of recipes to the reference, over trainings."""
    by_recipe = dict(iter(rows.groupby("recipe")))
    found = []
    for recipe, same in by_recipe.items():
        for measure in MEASURES if recipe != REFERENCE and len(same) >= TRAININGS else ():
            ours, reference = same[measure].tolist(), by_recipe[REFERENCE][measure].tolist()
            low, high = welch_interval(ours, reference)
            difference = same[measure].mean() - by_recipe[REFERENCE][measure].mean()
            found.append((recipe, measure, len(ours), same[measure].mean(), same[measure].std(), difference, low, high,
                          welch(ours, reference)))  # fmt: skip
    names = ["recipe", "measure", "trainings", "mean", "deviation", "difference", "low", "high", "p"]
    table = pd.DataFrame(found, columns=names)
    return table.assign(p_holm=holm(table["p"].tolist()))


def draw(rows: pd.DataFrame, name: str) -> None:
    """Over B on the left, other variations on the right."""
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained", width_ratios=[1, 1.3])
        sweep = rows[rows["recipe"].str.fullmatch(r"bcos-b[\d.]+")]
        for condition, (marker, dashes) in CONDITIONS.items():
            column = f"localisation_{condition}"
            left.plot(sweep["b"], sweep[column], marker, color=COLOURS[0], alpha=0.4)
            left.plot(
                *_means(sweep, column), marker=marker, ls=dashes, color=COLOURS[0], label=f"localisation, {condition}"
            )
        for column, colour in (("accuracy", COLOURS[6]), ("robust", COLOURS[5])):
            left.plot(sweep["b"], sweep[column], ".", color=colour, alpha=0.4)
            left.plot(*_means(sweep, column), color=colour, label=column)
        left.axhline(0.25, color="black", ls="--", lw=0.8)
        left.set(xlabel="B", ylim=(0, 1.02), title="B")
        others = rows[~rows["recipe"].str.fullmatch(r"bcos-b[\d.]+") | (rows["recipe"] == "bcos-b2")]
        recipes = sorted(
            others["recipe"].unique(), key=lambda name: (not name.startswith("bcos"), name != "bcos-b2", name)
        )
        for place, recipe in enumerate(recipes):
            same = others[others["recipe"] == recipe]
            for shift, (condition, (marker, _)) in enumerate(CONDITIONS.items()):
                at = [place + 0.15 * (shift - 2)] * len(same)
                right.plot(at, same[f"localisation_{condition}"], marker, color=COLOURS[0])
            right.plot([place + 0.15] * len(same), same["accuracy"], "_", color=COLOURS[6], markersize=8)
            right.plot([place + 0.3] * len(same), same["robust"], "_", color=COLOURS[5], markersize=8)
        right.axhline(0.25, color="black", ls="--", lw=0.8)
        right.set_xticks(range(len(recipes)), recipes, rotation=25, ha="right")
        right.set(ylim=(0, 1.02), title="other variations")
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=7)
        figure.savefig(HERE.parent / "images" / f"{name}.png")


def _means(rows: pd.DataFrame, column: str) -> tuple[list[float], list[float]]:
    means = rows.groupby("b")[column].mean()
    return list(means.index), list(means)


if __name__ == "__main__":
    grids, zoo, *others = sys.argv[1:]
    name = others[1] if others else "localisation"
    found = table(Path(grids), Path(zoo), Path(others[0]) if others else None)
    found.round(4).to_csv(HERE / f"{name}.csv", index=False)
    draw(found, name)
    differences = compare(found)
    if len(differences):
        differences.round(5).to_csv(HERE / f"{name}_differences.csv", index=False)
        sys.stdout.write(f"{differences.round(4).to_string()}\n")
    numbers = found.drop(columns=["b"]).groupby("recipe").mean(numeric_only=True)
    numbers["models"] = found.groupby("recipe").size()
    sys.stdout.write(f"{numbers.round(3).to_string()}\n")
