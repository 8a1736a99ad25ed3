"""The literature's table for one B-cos network: two suites, twelve cells, beside cell by cell.

    python benchmarks/suites.py

Ours is a run without evidence and figures, its store in memory, rows included. Beside it torchattacks, which attacks
the images the model gets right in one cell after the other, and ours with ``independent_cells``, which attacks what
was broken within a smaller radius, or in fewer steps, again. Cross-entropy throughout. Robust images are summed over
the cells, and no cell may have more of them than its peer's.
"""

import argparse
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from pairs import Claim, make_parser, parse, publish, take_turns
from peers import of_torchattacks, passes_of
from subjects import BATCH, Attacked, add_options, find_model, make_run, standing

from robustbench_bcos.bench.cells import Cell
from robustbench_bcos.bench.records import make_records
from robustbench_bcos.bench.request import Request
from robustbench_bcos.bench.runner import execute
from robustbench_bcos.bench.store import Store
from robustbench_bcos.core.prediction import predicted_classes

SUITES = ("tables-l2", "tables-linf")
CELL_BY_CELL, INDEPENDENT = 0.10, 0.70


class Outcome(NamedTuple):
    """What comes of a table."""

    standing: dict[str, int]
    """Images that stand, by cell."""
    passes: int
    """Images passed forward in all cells."""


def carry_out(requests: list[Request]) -> Outcome:
    stand, passes = {}, 0
    for request in requests:
        with Store() as store:
            for _ in execute(request, store):
                pass
            rows = make_records(store, request.identity)
        stand |= {_name(row.norm, row.eps, row.steps): row.robust_correct for row in rows.itertuples()}
        passes += int(rows["forward_passes"].sum())
    return Outcome(stand, passes)


def one_by_one(attacked: Attacked, cells: list[Cell]) -> Outcome:
    """What torchattacks does of the same table."""
    classifier, stand = attacked.model.classifier, {}
    for cell in cells:
        count = 0
        for images, labels in attacked.batches():
            adversarials = of_torchattacks(
                classifier, images, labels, cell.threat.norm, cell.threat.radius, cell.attack.effort
            )
            count += int(standing(classifier, adversarials, labels).sum())
        stand[_name(cell.threat.norm, cell.threat.text, cell.attack.effort)] = count
    return Outcome(stand, sum(passes_of("torchattacks", cell.attack.effort) for cell in cells) * len(attacked.images))


@torch.no_grad()
def what_is_right(name: str, options: argparse.Namespace, request: Request) -> Attacked:
    model, images, labels = find_model(name, options), [], []
    for batch in request.subset.batches(BATCH):
        right = predicted_classes(model.classifier(batch.images)) == batch.labels
        images.append(batch.images[right])
        labels.append(batch.labels[right])
    return Attacked(model, torch.cat(images), torch.cat(labels))


def compare(
    claim: str,
    peer: str,
    target: float,
    sides: tuple[Callable[[], Outcome], Callable[[], Outcome]],
    pairs: int | None,
) -> Claim:
    found: list[Outcome] = [Outcome({}, 0)] * 2

    def noted(side: int) -> None:
        found[side] = sides[side]()

    turns = take_turns(partial(noted, 0), partial(noted, 1), pairs)
    ours, theirs = found
    stand = sum(ours.standing.values()), sum(theirs.standing.values())
    told = Claim.of(claim, peer, turns, target, standing=stand, passes=(ours.passes, theirs.passes))
    return told._replace(worse=sum(max(0, count - theirs.standing[cell]) for cell, count in ours.standing.items()))


def main() -> None:
    parser = make_parser(__doc__)
    add_options(parser)
    parser.add_argument("--model", default="digits-bcos-b2")
    parser.add_argument("--limit", type=int, help="images, balanced over classes; all")
    options = parse(parser)
    torch.set_num_threads(options.threads)
    flags = {"model": (options.model,), "limit": options.limit}
    if options.quick:
        flags |= {"limit": min(20, options.limit or 20), "steps": (1, 2)}
    shared, independent = (
        [make_run(options, suite, **flags, independent_cells=each or None) for suite in SUITES]
        for each in (False, True)
    )
    cells = [cell for request in shared for cell in request.cells]
    attacked = what_is_right(options.model, options, shared[0])
    claim = f"{options.model}, {' and '.join(SUITES)}, {len(cells)} cells, {len(shared[0].subset)} images"
    pairs = 1 if options.quick else options.pairs

    def ours() -> Outcome:
        return carry_out(shared)

    claims = [
        compare(claim, "torchattacks", CELL_BY_CELL, (ours, lambda: one_by_one(attacked, cells)), pairs),
        compare(claim, "--independent-cells", INDEPENDENT, (ours, lambda: carry_out(independent)), pairs),
    ]
    publish("suites", claims, options)


def _name(norm: str, eps: str, steps: int) -> str:
    return f"{norm} {eps} {steps}"


if __name__ == "__main__":
    main()
