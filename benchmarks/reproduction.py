"""The literature's two tables, four ways: how much of a number is the attack's doing.

    python benchmarks/reproduction.py --dataset folder:DIR --model cifar10jpeg-natural-resnet20 \\
        cifar10jpeg-bcos-b2-resnet20 --limit 1000 --out reproduction

1. ``as published``: the six encoded channels of B-cos networks (pixels of others), the loss as it is commonly written
   (BCE, or cross-entropy), MadryLab's steps, which divide by the gradient's norm + 1e-10, and the iterate of highest
   loss. Steps and projections are ``robustness``'s own.
2. ``encoded``: the same space, this project's loss, steps and count. B-cos networks alone have it.
3. ``image``: pixels, the loss of the model's card.
4. ``worst``: pixels, that loss and the margin, with quick evidence; the worst case for each image.

Ways 2 to 4 are ``run --suite tables-l2`` and ``tables-linf``, their folders lie in ``--out`` and are continued by the
same command, as is the first way, cell by cell. Prints a table in Markdown for each norm: per cent of all images with
Wilson's 95 % interval, 20 / 100 steps. ``--steps 20`` leaves out the longer ones, with another ``--out``.
``--compile`` has all ways search on compiled networks, which needs a C++ compiler; verdicts are the network's own.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from pairs import parse
from peers import best_of_madrylab
from subjects import BATCH, add_options, find_model, make_run
from torch import Tensor

from robustbench_bcos.bench.fast_copy import make_fast_copy
from robustbench_bcos.core.prediction import predicted_classes
from robustbench_bcos.core.statistics import wilson
from robustbench_bcos.data.subset import Batch
from robustbench_bcos.model_zoo.models import Model

SUITES = ("tables-l2", "tables-linf")
PUBLISHED, ENCODED, IMAGE, WORST = "as published", "encoded", "image", "worst"
WAYS = [PUBLISHED, ENCODED, IMAGE, WORST]
FLAGS = {
    ENCODED: ["--space", "encoded", "--evidence", "off"],
    IMAGE: ["--evidence", "off"],
    WORST: ["--loss", "auto,margin"],
}


def common_bce(logits: Tensor, labels: Tensor) -> Tensor:
    """As it is commonly written, in float32: its slope rounds to 0 at true logits above 17."""
    targets = F.one_hot(labels, logits.shape[1]).to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(dim=1)


def common_ce(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="none")


def attack_as_published(model: Model, batch: Batch, norm: str, epsilon: float, steps: int) -> int:
    """Images that stand."""
    # The fast copy has the same logits and gradients up to rounding, and takes half the time.
    classifier, searched = model.classifier, model.attack_model
    images, loss = batch.images, common_ce
    if model.family == "bcos":
        images, loss = classifier.encoding(images), common_bce
        classifier, searched = classifier.network, searched.network
    with torch.no_grad():
        right = predicted_classes(classifier(images)) == batch.labels
    images, labels = images[right], batch.labels[right]
    if not len(labels):
        return 0
    adversarials = best_of_madrylab(lambda iterates: loss(searched(iterates), labels), images, norm, epsilon, steps)
    with torch.no_grad():
        return int((predicted_classes(classifier(adversarials)) == labels).sum())


def measure_as_published(name: str, options: argparse.Namespace) -> pd.DataFrame:
    """A row a cell, written as soon as it is known."""
    file = options.out / f"{name}-as-published.csv"
    flags = {"model": (name,), "limit": options.limit, "steps": tuple(options.steps)}
    requests = [make_run(options, suite, **flags) for suite in SUITES]
    images = requests[0].subset
    rows = pd.read_csv(file, dtype={"eps": str}).to_dict("records") if file.exists() else []
    if any(row["subset"] != images.digest for row in rows):
        raise SystemExit(f"{file} is of other images: choose another folder with --out, or remove it")
    known = {(row["norm"], row["eps"], row["steps"]) for row in rows}
    model = make_fast_copy(find_model(name, options), compiled=options.compile)
    for cell in [cell for request in requests for cell in request.cells]:
        key = (cell.threat.norm, cell.threat.text, cell.attack.effort)
        if key not in known:
            stand = sum(
                attack_as_published(model, batch, cell.threat.norm, cell.threat.radius, cell.attack.effort)
                for batch in images.batches(BATCH)
            )
            row = dict(zip(("norm", "eps", "steps"), key, strict=True))
            rows.append(row | {"correct": stand, "images": len(images), "subset": images.digest})
            pd.DataFrame(rows).to_csv(file, index=False)
    return pd.DataFrame(rows)


def measure(name: str, way: str, options: argparse.Namespace) -> pd.DataFrame:
    """The rows of two runs, as many as there are cells and losses."""
    tables = []
    for suite in SUITES:
        folder = options.out / f"{name}-{way}-{suite}"
        command = [sys.executable, "-m", "robustbench_bcos", "run", "--suite", suite, "--model", name]
        command += ["--dataset", options.dataset, "--limit", str(options.limit), "--out", str(folder), "--quiet"]
        command += [f"--steps={','.join(map(str, options.steps))}"]
        command += [*FLAGS[way], "--no-figures", *(f"--zoo={zoo}" for zoo in options.zoo)]
        command += ["--compile"] if options.compile else []
        command += [] if options.data_dir is None else ["--data-dir", str(options.data_dir)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        tables.append(pd.read_csv(folder / "results.csv", dtype={"eps": str}))
    rows = pd.concat(tables)
    rows["correct"] = rows["worst_correct" if way == WORST else "robust_correct"]
    # Of several losses the worst case is one, whichever row it is read from.
    return rows.groupby(["norm", "eps", "steps"], as_index=False, sort=False)[["correct", "images"]].min()


def tabulate(found: dict[tuple[str, str], pd.DataFrame], norm: str, steps: list[int]) -> Iterator[str]:
    """A row for each way of each model, a column for each radius."""
    by_cell = {key: rows[rows["norm"] == norm].set_index(["eps", "steps"]) for key, rows in found.items()}
    radii = list(dict.fromkeys(eps for rows in by_cell.values() for eps, _ in rows.index))
    yield f"| model | way | {' | '.join(f'{norm} {eps}' for eps in radii)} |"
    yield "|" + "---|" * (len(radii) + 2)
    for (name, way), rows in by_cell.items():
        cells = [" / ".join(say(rows.loc[(eps, count)]) for count in steps) for eps in radii]
        yield f"| `{name}` | {way} | {' | '.join(cells)} |"


def say(row: pd.Series) -> str:
    low, high = wilson(int(row["correct"]), int(row["images"]))
    return f"{100 * row['correct'] / row['images']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--model", nargs="+", required=True)
    parser.add_argument("--way", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--steps", type=int, nargs="+", default=[20, 100])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("reproduction"))
    options = parse(parser)
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    found = {}
    for name in options.model:
        for way in options.way:
            if way == PUBLISHED:
                found[name, way] = measure_as_published(name, options)
            elif way != ENCODED or find_model(name, options).family == "bcos":
                found[name, way] = measure(name, way, options)
    for norm in ("l2", "linf"):
        print(*tabulate(found, norm, options.steps), "", sep="\n")


if __name__ == "__main__":
    main()
