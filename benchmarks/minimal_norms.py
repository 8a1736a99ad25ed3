"""How small are the perturbations that ``--distances`` finds? Beside the minimum-norm attacks of adv-lib.

    pip install adv-lib
    python benchmarks/minimal_norms.py                      # digits, 32 images that a model is right about
    python benchmarks/minimal_norms.py --norm l1 --images 100 --model digits-natural

DDN (Rony et al., 2019), FMN (Pintor et al., 2021), PDPGD (Matyasko & Chau, 2021) and, for l0, which is reported only,
sigma-zero (Cinà et al., 2025), on the same images and with as many passes for each as ours took on average.
One JSON line for each model, norm and attack: the median distance; AttackBench's optimality (Cinà et al., 2024: the
area above its curve of accuracy over epsilon, up to where the best of all leaves nothing, over that of the best); and
how many images come within 2 % of the smallest perturbation that any of the attacks found.
"""

import argparse
import contextlib
import io
import json
import time
from collections.abc import Callable
from functools import partial
from math import inf

import torch
from subjects import Attacked, add_options, find_model, make_own_run, right_images
from torch import Tensor, nn

from robustbench_bcos.bench.rows import DistanceRow
from robustbench_bcos.bench.runner import execute
from robustbench_bcos.bench.store import Store

ORDERS = {"l0": 0.0, "l1": 1.0, "l2": 2.0, "linf": inf}

NEAR = 1.02
"""Within so many times the smallest perturbation an attack is as good as the best."""

Peer = Callable[[nn.Module, Tensor, Tensor, int], Tensor]
"""Takes classifier, images, labels and steps of a forward and a backward pass."""


def peers_of(norm: str) -> dict[str, Peer]:
    """The attacks of adv-lib for a norm, with their default options but for the steps."""
    with contextlib.redirect_stdout(io.StringIO()):
        from adv_lib.attacks import ddn, fmn, pdpgd, sigma_zero

    order = ORDERS[norm]
    if norm == "l0":
        return {"sigma-zero": lambda model, images, labels, steps: sigma_zero(model, images, labels, num_steps=steps)}
    found: dict[str, Peer] = {
        "FMN": lambda model, images, labels, steps: fmn(model, images, labels, norm=order, steps=steps),
        "PDPGD": lambda model, images, labels, steps: pdpgd(model, images, labels, norm=order, num_steps=steps),
    }
    if norm == "l2":
        # Its default rounds to 256 levels, which no other attack is asked to do.
        found["DDN"] = lambda model, images, labels, steps: ddn(model, images, labels, steps=steps, levels=None)
    return found


def ours(attacked: Attacked, norm: str, steps: int) -> tuple[Tensor, int]:
    """What ``--distances`` finds, and the passes that it took for an image on average."""
    model, images, labels = attacked
    flags = {"norm": (norm,), "eps": ("0",), "steps": (steps,), "distances": True, "loss": ("auto",), "explained": 0}
    request = make_own_run({"net": model}, images, labels, 10, **flags)
    with Store() as store:
        for _ in execute(request, store):
            pass
        rows = sorted(store.select(DistanceRow, model="net", norm=norm), key=lambda row: row.image)
    distances = torch.tensor([inf if row.high is None else row.high for row in rows], dtype=torch.float64)
    return distances, round(sum(row.passes for row in rows) / len(rows))


def measured(model: nn.Module, images: Tensor, labels: Tensor, norm: str, adversarials: Tensor) -> Tensor:
    """Sizes of perturbations within the pixel range that fool the model, infinite where one does not."""
    inside = adversarials.clamp(0, 1)
    with torch.no_grad():
        fooled = model(inside).argmax(dim=1) != labels
    sizes = (inside.double() - images.double()).flatten(1).norm(ORDERS[norm], dim=1)
    return sizes.masked_fill(~fooled, inf)


def area_above(distances: Tensor, end: float) -> float:
    """Of the curve of accuracy over epsilon, from 0 to the end."""
    return float((end - distances).clamp(min=0).mean())


def compare(attacked: Attacked, norm: str, steps: int) -> None:
    """Print what each attack found."""
    model, images, labels = attacked
    distances: dict[str, Tensor] = {}
    seconds: dict[str, float] = {}
    passes = 2 * steps
    if norm != "l0":
        began = time.perf_counter()
        distances["ours"], passes = ours(attacked, norm, steps)
        seconds["ours"] = time.perf_counter() - began
    attacks = {
        name: partial(peer, model.classifier, images, labels, passes // 2) for name, peer in peers_of(norm).items()
    }
    for name, attack in attacks.items():
        began = time.perf_counter()
        distances[name] = measured(model.classifier, images, labels, norm, attack())
        seconds[name] = time.perf_counter() - began
    best = torch.stack([*distances.values()]).amin(dim=0)
    end = float(best.max())
    for name, found in distances.items():
        line = {
            "model": model.name,
            "norm": norm,
            "attack": name,
            "images": len(images),
            "passes": passes,
            "median": round(float(found.median()), 5),
            "optimality": round(area_above(found, end) / area_above(best, end), 4),
            "near_the_best": int((found <= NEAR * best).sum()),
            "median_ratio": round(float((best / found).median()), 4),
            "seconds": round(seconds[name], 1),
        }
        print(json.dumps(line), flush=True)


def main() -> None:
    """Every model, norm by norm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=["digits-natural", "digits-bcos-b2", "digits-adv-l2"])
    parser.add_argument("--norm", nargs="+", choices=[*ORDERS], default=["l2", "linf", "l1"])
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--steps", type=int, default=100, help="of the search within each epsilon")
    add_options(parser)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in given.model:
        attacked = right_images(find_model(name, given), given, given.images)
        for norm in given.norm:
            compare(attacked, norm, given.steps)


if __name__ == "__main__":
    main()
