"""Makes the tables and figures of fooled-maps.md.

python docs/findings/fooled_maps.py NAME RUN ...

NAME.csv, NAME_differences.csv and NAME.png are of runs with ``--goal explanation:away``, and other goals at will;
NAME_certified.csv is of runs with ``--certify sparsified_maps``. `way` is the way that a map has gone, as a share of
that to another image of the class: (1 - cosine) over its mean (1 - cosine) of other images.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from robustbench_bcos.core.statistics import bootstrap, holm, sign_flip
from robustbench_bcos.reports.style import COLOURS, STYLE

HERE = Path(__file__).parent
COMPARED = {"explanation": ("explanation attacked", "o"), "prediction": ("prediction attacked", "s"),
            "noise": ("noise of the same size", "D"), "other": ("another image of the class", "|")}  # fmt: skip
OWN = {"dynamic_weights", "input_x_gradient"}

PAIRS = [
    ("digits-natural", "input_x_gradient", "digits-bcos-b2", "dynamic_weights"),
    ("digits-adv-l2", "input_x_gradient", "digits-bcos-adv-l2", "dynamic_weights"),
    ("digits-natural", "gradcam", "digits-bcos-b2", "dynamic_weights"),
    ("digits-natural", "integrated_gradients", "digits-bcos-b2", "dynamic_weights"),
    ("digits-natural", "integrated_gradients", "digits-bcos-b2", "integrated_gradients"),
    ("digits-natural", "integrated_gradients", "digits-adv-l2", "integrated_gradients"),
    ("digits-bcos-b2", "integrated_gradients", "digits-bcos-adv-l2", "integrated_gradients"),
    ("digits-bcos-b2", "input_x_gradient", "digits-bcos-b2", "dynamic_weights"),
    ("digits-bcos-b2", "integrated_gradients", "digits-bcos-b2", "dynamic_weights"),
    ("digits-bcos-b2", "gradcam", "digits-bcos-b2", "dynamic_weights"),
    ("digits-natural", "input_x_gradient", "digits-bcos-b2", "input_x_gradient"),
    ("digits-bcos-b2", "dynamic_weights", "digits-bcos-adv-l2", "dynamic_weights"),
    ("digits-natural", "input_x_gradient", "digits-adv-l2", "input_x_gradient"),
    ("digits-natural", "input_x_gradient", "digits-adv-linf", "input_x_gradient"),
    ("digits-bcos-b2", "dynamic_weights", "digits-bcos-b1.25", "dynamic_weights"),
    ("digits-bcos-b2", "dynamic_weights", "digits-bcos-b2.5", "dynamic_weights"),
    ("cifar10jpeg-natural-resnet20", "input_x_gradient", "cifar10jpeg-bcos-b2-resnet20", "dynamic_weights"),
    ("cifar10jpeg-adv-l2-resnet20", "input_x_gradient", "cifar10jpeg-bcos-adv-l2-resnet20", "dynamic_weights"),
    ("cifar10jpeg-natural-resnet20", "gradcam", "cifar10jpeg-bcos-b2-resnet20", "dynamic_weights"),
    ("cifar10jpeg-bcos-b2-resnet20", "gradcam", "cifar10jpeg-bcos-b2-resnet20", "dynamic_weights"),
    ("cifar10jpeg-bcos-b2-resnet20", "dynamic_weights", "cifar10jpeg-bcos-adv-l2-resnet20", "dynamic_weights"),
    ("cifar10jpeg-natural-resnet20", "input_x_gradient", "cifar10jpeg-adv-l2-resnet20", "input_x_gradient"),
    ("cifar10jpeg-bcos-b2-resnet20", "dynamic_weights", "cifar10jpeg-bcos-b2-nonorm-resnet20", "dynamic_weights"),
    ("cifar10jpeg-natural-resnet20", "integrated_gradients", "cifar10jpeg-bcos-b2-resnet20", "dynamic_weights"),
    ("cifar10jpeg-natural-resnet20", "integrated_gradients", "cifar10jpeg-bcos-b2-resnet20", "integrated_gradients"),
]
"""Model and method, compared on the images that both models are right about."""


CERTIFIED = [
    ("digits-natural", "digits-bcos-b2"),
    ("digits-adv-l2", "digits-bcos-adv-l2"),
    ("digits-natural", "digits-adv-l2"),
    ("digits-bcos-b2", "digits-bcos-adv-l2"),
    ("digits-bcos-b2", "digits-bcos-b1.25"),
    ("digits-bcos-b2", "digits-bcos-b2.5"),
    ("cifar10jpeg-natural-resnet20", "cifar10jpeg-bcos-b2-resnet20"),
    ("cifar10jpeg-adv-l2-resnet20", "cifar10jpeg-bcos-adv-l2-resnet20"),
    ("cifar10jpeg-natural-resnet20", "cifar10jpeg-adv-l2-resnet20"),
    ("cifar10jpeg-bcos-b2-resnet20", "cifar10jpeg-bcos-adv-l2-resnet20"),
]
"""Models, compared by what is certified of their smoothed maps within ``RADIUS``, on all images."""

RADIUS = 0.1


def certify(name: str, runs: list[Path]) -> None:
    """Write what is certified of smoothed maps, and print differences, image by image."""
    rows = pd.concat([pd.read_csv(run / "smoothed.csv") for run in runs])
    table = rows[rows["certificate"] == "sparsified_maps"].drop(columns=["smoothed_correct", "smoothed_abstained"])
    table.round(4).to_csv(HERE / f"{name}_certified.csv", index=False)
    images = pd.concat([pd.read_csv(run / "smoothed_images.csv") for run in runs])
    maps = images[images["certificate"] == "sparsified_maps"]
    kept = maps.assign(kept=maps["smoothed_radius"] >= RADIUS).groupby(["model", "sigma", "image"])["kept"].mean()
    found = []
    for sigma in sorted(set(table["sigma"])):
        for first, second in CERTIFIED:
            if not {first, second} <= set(table["model"]):
                continue
            values = (kept[second, sigma] - kept[first, sigma]).tolist()
            low, high = bootstrap(values, seed=0)
            found.append({
                "first": first, "second": second, "sigma": sigma, "difference": sum(values) / len(values),
                "low": low, "high": high, "p": sign_flip(values, seed=0),
            })  # fmt: skip
    differences = pd.DataFrame(found)
    sys.stdout.write(f"{differences.assign(p_holm=holm(differences['p'].tolist())).round(4).to_string()}\n")


def read(runs: list[Path]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of all runs, and their images with the model and threat of the cell."""
    rows = pd.concat([pd.read_csv(run / "fooled.csv") for run in runs])
    images = pd.concat([pd.read_csv(run / "fooled_images.csv") for run in runs])
    named = images.merge(rows[["cell", "model", "norm", "eps"]].drop_duplicates(), on="cell")
    return rows, named[(named["attacked"] == 1) & (named["goal"] == "away")]


def with_ways(rows: pd.DataFrame) -> pd.DataFrame:
    """What the page shows of each row."""
    for name in COMPARED:
        rows[f"way_{name}"] = (1 - rows[f"cosine_{name}"]) / (1 - rows["cosine_other"])
    kept = ["model", "method", "goal", "norm", "eps", "steps", "images", "kept", "fooled", "fooled_low", "fooled_high",
            "withstood", "withstood_low", "withstood_high", "withstood_worst", "changed"]  # fmt: skip
    measures = [f"{measure}_{name}" for measure in ("cosine", "spearman", "topk", "mass", "way") for name in COMPARED]
    return rows[[*kept, *measures, "derivatives", "examined", "trust", "reasons"]].sort_values(
        ["norm", "goal", "model", "method"]
    )


def compare(rows: pd.DataFrame, images: pd.DataFrame) -> pd.DataFrame:
    """Differences of pairs, image by image, in cosine and in way."""
    others = rows.set_index(["model", "method", "norm"])["cosine_other"]
    attacked = images[images["comparison"] == "explanation"].set_index(["model", "method", "norm"])
    found = []
    for first, first_method, second, second_method in PAIRS:
        for norm in ("l2", "linf"):
            keys = (first, first_method, norm), (second, second_method, norm)
            if not all(key in others.index for key in keys):
                continue
            one, two = (attacked.loc[key].set_index("image")["cosine"] for key in keys)
            both = sorted(set(one.index) & set(two.index))
            ways = [(1 - of[both]) / (1 - others[key]) for of, key in zip((one, two), keys, strict=True)]
            for measure, difference in (("cosine", two[both] - one[both]), ("way", ways[1] - ways[0])):
                values = difference.tolist()
                low, high = bootstrap(values, seed=0)
                found.append({
                    "first": f"{first} {first_method}", "second": f"{second} {second_method}", "norm": norm,
                    "measure": measure, "difference": sum(values) / len(values), "low": low, "high": high,
                    "images": len(values), "p": sign_flip(values, seed=0),
                })  # fmt: skip
    table = pd.DataFrame(found)
    return table.assign(p_holm=holm(table["p"].tolist()))


def draw(file: Path, rows: pd.DataFrame) -> None:
    """Cosine with the clean map in each comparison: a row for each model and method, a panel for each norm."""
    kinds = {(row.model, row.method) for row in rows.itertuples()}
    order = [
        (name.startswith("cifar10"), method not in OWN, "bcos" not in name, name, method) for name, method in kinds
    ]
    order.sort(reverse=True)
    names = [(model, method) for *_, model, method in order]
    with plt.rc_context(STYLE):
        norms = sorted(set(rows["norm"]))
        size = (4 + 2.6 * len(norms), 0.19 * len(names) + 1)
        figure, panels = plt.subplots(
            1, len(norms), figsize=size, sharey=True, sharex=True, layout="constrained", squeeze=False
        )
        for axes, norm in zip(panels[0], norms, strict=True):
            same = rows[rows["norm"] == norm].set_index(["model", "method"])
            for place, name in enumerate(names):
                if name not in same.index:
                    continue
                row = same.loc[name]
                ends = [row[f"cosine_{comparison}"] for comparison in ("explanation", "noise")]
                axes.plot(ends, [place, place], color="0.8", lw=2, zorder=0)
                for (comparison, (label, marker)), colour in zip(COMPARED.items(), COLOURS, strict=False):
                    size = 9 if marker == "|" else 5
                    style = {"color": "black" if marker == "|" else colour, "markersize": size}
                    axes.plot(row[f"cosine_{comparison}"], place, marker, label=label if place == 0 else None, **style)
            axes.set(title=norm, xlabel="mean cosine with the clean map")
            axes.set_yticks(range(len(names)), [f"{model}, {method}" for model, method in names])
            axes.grid(axis="x")
        handles = [plt.Line2D([], [], ls="", marker=marker, color="black" if marker == "|" else colour, label=label)
                   for (label, marker), colour in zip(COMPARED.values(), COLOURS, strict=False)]  # fmt: skip
        figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=7)
        figure.savefig(file)


def fool(name: str, runs: list[Path]) -> None:
    """Write what became of maps, and differences, image by image."""
    found, seen = read(runs)
    shown = with_ways(found.reset_index(drop=True))
    shown.round(4).to_csv(HERE / f"{name}.csv", index=False)
    away = shown[shown["goal"] == "explanation:away"]
    differences = compare(away, seen)
    differences.round(5).to_csv(HERE / f"{name}_differences.csv", index=False)
    draw(HERE.parent / "images" / f"{name}.png", away)
    sys.stdout.write(f"{shown.round(3).to_string()}\n{differences.round(4).to_string()}\n")


if __name__ == "__main__":
    written, *folders = sys.argv[1:]
    for file, make in (("fooled.csv", fool), ("smoothed.csv", certify)):
        if having := [Path(run) for run in folders if (Path(run) / file).exists()]:
            make(written, having)
