"""Every fast way of attacking beside the slow one: images whose verdict differs.

    python benchmarks/agreement.py
    python benchmarks/agreement.py --dataset folder:DIR --model cifar10jpeg-bcos-b2-resnet20 --limit 256 --eps 0.25

The slow way walks on the model itself, 16 images at a time, and takes in none while others are there. Beside it: the
folded copy in either memory format, the pool that refills, fewer and more images at a time, the other order of images,
batches shared out among two replicas, compiled, and bfloat16. All are judged on the model itself. Nothing but rounding
tells them apart, so an image whose verdict differs is one whose path comes so near to a boundary that the last digit
decides; there the table says how many, and which of the two found more.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from pairs import Claim, make_parser, parse, publish
from subjects import Attacked, add_options, find_model, right_images, search, target_of
from torch import Tensor

from robustbench_bcos.attacks import NORMS
from robustbench_bcos.bench.cells import Cell, make_cells
from robustbench_bcos.bench.configured import make_config
from robustbench_bcos.bench.fast_copy import make_fast_copy
from robustbench_bcos.model_zoo.models import Model

DIGITS = ("adv-l2", "adv-linf", "bcos-adv-l2", "bcos-b1.25", "bcos-b2", "bcos-b2.5", "natural")
SLOW = 16
"""Images at a time."""


class Way(NamedTuple):
    """How a cell is attacked."""

    attacked: Attacked
    cell: Cell

    def broken(self, model: Model, batch_size: int, part: int) -> Tensor:
        """Which images are broken, ``batch_size`` at a time out of ``part`` that take each other's places."""
        target = target_of(model, self.attacked.images, self.attacked.labels, self.cell)
        parts = [target.select(positions) for positions in torch.arange(len(self.attacked.labels)).split(part)]
        found = [search(some, self.cell, model.loss, batch_size).verdicts.success for some in parts]
        return torch.cat(found)

    def slow(self) -> Tensor:
        return self.broken(replace(self.attacked.model, fast_copy=None), SLOW, SLOW)

    def fast(self, batch_size: int = 256, **copy: Any) -> Tensor:  # noqa: ANN401 (as make_fast_copy has it)
        return self.broken(make_fast_copy(self.attacked.model, **copy), batch_size, 4 * batch_size)

    def backwards(self) -> Tensor:
        images, labels = self.attacked.images.flip(0), self.attacked.labels.flip(0)
        return Way(self.attacked._replace(images=images, labels=labels), self.cell).fast().flip(0)


def ways(way: Way, *, compiled: bool) -> dict[str, Callable[[], Tensor]]:
    found: dict[str, Callable[[], Tensor]] = {
        "as run does": way.fast,
        "contiguous": lambda: way.fast(memory_format="contiguous"),
        "7 at a time": lambda: way.fast(7),
        "64 at a time": lambda: way.fast(64),
        "backwards": way.backwards,
        "two replicas": lambda: way.fast(replicas=2),
        "bfloat16": lambda: way.fast(precision="bf16"),
    }
    return found | ({"compiled": lambda: way.fast(compiled=True)} if compiled else {})


def main() -> None:
    parser = make_parser(__doc__)
    add_options(parser)
    parser.add_argument("--model", action="append", help="as for run, several times; by default the digits zoo")
    parser.add_argument("--norm", choices=NORMS, default="l2")
    parser.add_argument("--eps", default="0.5")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--limit", type=int, default=256, help="images that each model classifies correctly (256)")
    parser.add_argument("--no-compile", action="store_true")
    options = parse(parser)
    if options.quick:
        options.limit, options.steps, options.no_compile = 20, 3, True
    torch.set_num_threads(options.threads)
    claims = []
    for name in options.model or [f"digits-{name}" for name in DIGITS]:
        grid = {"norm": (options.norm,), "eps": (options.eps,), "steps": (options.steps,)}
        cell = make_cells(make_config(grid), [name])[0]
        way = Way(right_images(find_model(name, options), options, options.limit), cell)
        slow = way.slow()
        for fast, run in ways(way, compiled=not options.no_compile).items():
            broken = run()
            note = f"{int(slow.sum())} of {len(slow)} are broken; {int((broken & ~slow).sum())} more, "
            note += f"{int((slow & ~broken).sum())} fewer"
            # Rounding to bfloat16 is another search; that of float32 is none.
            target = None if fast == "bfloat16" else 0.0
            work = f"{name}, {cell.threat}, {cell.attack.effort} steps"
            differing = float((slow != broken).sum())
            claims.append(Claim(f"{work}: {fast}", "the slow way", differing, target, unit="images", note=note))
    publish("agreement", claims, options)


if __name__ == "__main__":
    main()
