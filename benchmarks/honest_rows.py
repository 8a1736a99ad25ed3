"""Is `sound` right about networks that hide nothing? The default command's rows, beside a much stronger search.

    python benchmarks/honest_rows.py                                         # digits networks of the package
    python benchmarks/honest_rows.py --zoo FOLDER --model '*-seed*' --threat l2:0.5 linf:0.1 --images 100
    python benchmarks/honest_rows.py --dataset folder:DIR --model 'cifar10jpeg-*' --threat l2:0.5 linf:8/255

A row is too high where the stronger search, with draws of its own, breaks more than 0.3 % of the images (at least one)
that it says are robust: targeted Auto-PGD with AutoAttack's targets and steps and Auto-PGD of cross-entropy on every
image, then with restarts on the nearest, which single draws miss. One JSON line for each row, then the sums. Passes are
compared with AutoAttack's at its published settings, for as many images as the row leaves robust to every attack.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from subjects import add_options, find_model

from robustbench_bcos.attacks.attack import AbstractAttack
from robustbench_bcos.attacks.searches.apgd import APGD
from robustbench_bcos.attacks.searches.apgd_targeted import TargetedAPGD
from robustbench_bcos.attacks.searches.autoattack import AutoAttack
from robustbench_bcos.bench.cells import Cell
from robustbench_bcos.bench.configured import make_config
from robustbench_bcos.bench.evidence.selection import nearest_first
from robustbench_bcos.bench.evidence.trust import Judgement
from robustbench_bcos.bench.request import Request, make_request
from robustbench_bcos.bench.rows import TimingRow
from robustbench_bcos.bench.runner import execute
from robustbench_bcos.bench.store import Store
from robustbench_bcos.bench.target import make_target
from robustbench_bcos.bench.trial import attack_and_judge
from robustbench_bcos.data.subset import EvalSubset
from robustbench_bcos.model_zoo.cards import Zoo
from robustbench_bcos.model_zoo.models import Model, find_models

EVERY = (APGD(), TargetedAPGD(brief=True))
NEAREST = (APGD(restarts=3), TargetedAPGD(), APGD(loss="margin", restarts=3))
NEAR = 24

TOLERATED = 0.003
"""Share of the images by which a row may be too high."""

SEED = 1_000_003
"""Of the stronger search, which draws nothing that the row's evidence drew."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What the default command says, and what is known."""

    model: str
    norm: str
    eps: str
    images: int
    attack: int
    """Images that the attack leaves robust."""
    worst: int
    known: int
    """Of those, images that the stronger search leaves robust, too."""
    trust: str
    reasons: str
    passes: float
    """Of the attack and all evidence, in units of AutoAttack's."""
    seconds_of_evidence: float
    """In units of the attack's."""

    @property
    def too_high(self) -> bool:
        return self.worst - self.known > TOLERATED * self.images

    @property
    def wrongly_sound(self) -> bool:
        return self.trust == "sound" and self.too_high


def rows(name: str, given: argparse.Namespace) -> Iterator[Row]:
    """Those of a model, threat by threat."""
    model = find_model(name, given)
    for threat in given.threat:
        norm, eps = threat.split(":", 1)
        options = {
            "dataset": given.dataset,
            "data_dir": given.data_dir,
            "zoo": tuple(given.zoo),
            "model": (name,),
            "norm": (norm,),
            "eps": (eps,),
            "steps": (given.steps,),
            "limit": given.images,
            "loss": (given.loss,),
            "explained": 0,
            "figures": False,
            "device": "cpu",
        }
        request = make_request(make_config(options))
        (cell,) = request.cells
        with Store() as store:
            for _ in execute(request, store):
                pass
            judgement = Judgement(store, request.identity)
            trust, sums = judgement.of(cell), store.sums(cell)
            robust = sorted(set(store.robust(cell)) - judgement.broken_elsewhere(cell))
            searched = [row for row in store.results(cell.key) if row.check == "other_losses"]
            order = [image for image in nearest_first(searched) if image in set(robust)]
            spent = {work: 0.0 for work in ("attack", "evidence")}
            for timing in store.select(TimingRow, cell=cell.key):
                spent[timing.work] = spent.get(timing.work, 0.0) + timing.seconds

        stronger = partial(left, model, cell, request, given.batch_size)
        standing = stronger(order, EVERY)
        standing = stronger(standing[:NEAR], NEAREST) + standing[NEAR:]
        yield Row(
            model=name,
            norm=norm,
            eps=eps,
            images=len(request.subset),
            attack=sums.robust_correct,
            worst=trust.worst_correct,
            known=len(standing),
            trust=trust.trust,
            reasons=trust.reasons,
            passes=round(
                (sums.forward_passes + sums.backward_passes + trust.passes)
                / (AutoAttack(fab=True).passes * max(1, len(standing))),
                4,
            ),
            seconds_of_evidence=round(spent["evidence"] / max(spent["attack"], 1e-9), 2),
        )


def left(
    model: Model, cell: Cell, request: Request, batch_size: int, images: list[int], attacks: tuple[AbstractAttack, ...]
) -> list[int]:
    """Images that none of the attacks breaks."""
    for attack in attacks:
        if not images:
            break
        subset = EvalSubset(request.subset.dataset, tuple(images))
        pixels, labels, indices = subset.batch(0, len(images)).on("cpu")
        target = make_target(model, cell, pixels, labels, seed=SEED, indices=indices)
        broken = attack_and_judge(attack, target, subject=cell.key, batch_size=batch_size).verdicts.success
        images = [image for image, down in zip(images, broken.tolist(), strict=True) if not down]
    return images


def main() -> None:
    """Print the rows and their sums."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=["digits-*"], help="names or patterns")
    parser.add_argument("--threat", nargs="+", default=["l2:0.5", "linf:0.1"])
    parser.add_argument("--images", type=int, default=180)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--loss", default="auto")
    parser.add_argument("--batch-size", type=int, default=256)
    add_options(parser)
    given = parser.parse_args()
    torch.set_num_threads(1)
    began, found = time.perf_counter(), []
    for name in dict.fromkeys(
        source.name for pattern in given.model for source in find_models(pattern, Zoo(given.zoo))
    ):
        for row in rows(name, given):
            found.append(row)
            print(json.dumps(vars(row)), flush=True)
    print(
        f"rows {len(found)}; sound and too high {sum(row.wrongly_sound for row in found)}; "
        f"suspect {sum(row.trust == 'suspect' for row in found)}; too high by at most "
        f"{max((row.worst - row.known for row in found), default=0)} images; {time.perf_counter() - began:.0f} s"
    )


if __name__ == "__main__":
    main()
