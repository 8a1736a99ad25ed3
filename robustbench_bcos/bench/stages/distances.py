"""The smallest epsilon that breaks each image.

It begins with what the grid already knows: the largest epsilon within which an image stayed robust, and the smallest
perturbation that was found to break it. Where none is known, epsilons are doubled until one breaks the image. From
there a search along the boundary finds a smaller perturbation, and attacks slightly within it show that there is none
smaller still, or find it.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_bcos.attacks.attack import AbstractAttack
from robustbench_bcos.attacks.searches.pgd import PGD
from robustbench_bcos.attacks.smallest import Smallest
from robustbench_bcos.attacks.threat import Threat
from robustbench_bcos.bench.batch_size import BatchSize
from robustbench_bcos.bench.cells import Cell
from robustbench_bcos.bench.certified import Proofs
from robustbench_bcos.bench.failures import failures_named
from robustbench_bcos.bench.progress import Progress
from robustbench_bcos.bench.request import Request
from robustbench_bcos.bench.rows import DistanceRow, TimingRow
from robustbench_bcos.bench.store import Store
from robustbench_bcos.bench.target import make_target
from robustbench_bcos.bench.trial import attack_and_judge
from robustbench_bcos.core.rounding import significant
from robustbench_bcos.core.types import Flags
from robustbench_bcos.data.subset import Batch, EvalSubset
from robustbench_bcos.model_zoo.models import Model

REPEATED = 2
"""Steps of a walk along the boundary, in those of the attack within each epsilon."""

WITHIN = 0.985
"""Part of the smallest perturbation within which an attack looks for a smaller one."""

TRIES = 6
"""Such attacks at most, each within what the one before found; the last ones fall on the middle of what is left."""

DOUBLINGS = 12
"""Radii tried at most for an image that is not, each twice the one before, up to the whole pixel range."""

FEWEST_STEPS = 20


@dataclass(frozen=True, kw_only=True)
class Bracket:
    """What is known of an image."""

    low: float = 0.0
    """An epsilon within which it stayed robust."""
    high: float | None = None
    """Size of a perturbation that breaks it."""


def measure_distances(
    request: Request, model: Model, cells: Sequence[Cell], known: Store, size: BatchSize
) -> Iterator[Progress]:
    """Find the distances that are not known yet, for every norm, batch by batch."""
    proofs = Proofs()
    for norm in dict.fromkeys(cell.threat.norm for cell in cells):
        of_norm = [cell for cell in cells if cell.threat.norm == norm]
        cell = max(of_norm, key=lambda cell: cell.attack.effort)
        measured = {row.image for row in known.select(DistanceRow, model=model.name, norm=norm)}
        missing = [image for image in request.worked_on.indices if image not in measured]
        yield Progress(cell=cell, images=len(request.worked_on) - len(missing))
        brackets = _brackets(known, of_norm) if missing else {}
        correct = {image for image, row in known.clean(model.name).items() if row.correct}
        for attempt in size.over(len(missing)):
            indices = missing[attempt.start : attempt.stop]
            with attempt, failures_named(model, request.subset.dataset, indices, cell.work):
                began = time.perf_counter()
                rows = [
                    DistanceRow(model=model.name, norm=norm, image=image, low=0.0, high=0.0, passes=0)
                    for image in indices
                    if image not in correct
                ]
                right = tuple(image for image in indices if image in correct)
                if right:
                    batch = EvalSubset(request.subset.dataset, right).batch(0, len(right))
                    rows += _narrow(
                        request,
                        model,
                        cell=cell,
                        batch=batch,
                        brackets=[brackets[image] for image in right],
                        proofs=proofs,
                    )
                timing = TimingRow(cell=cell.key, work="distances", images=0, seconds=time.perf_counter() - began)
                yield Progress(cell=cell, images=len(indices), rows=(*rows, timing))


def _brackets(known: Store, cells: Sequence[Cell]) -> dict[int, Bracket]:
    """What the cells of a model and norm know of each image."""
    radii: dict[int, list[float]] = {}
    sizes: dict[int, list[float]] = {}
    for cell in cells:
        for row in known.verdicts(cell):
            lows, highs = radii.setdefault(row.image, []), sizes.setdefault(row.image, [])
            if row.success:
                highs.append(row.size)
            elif row.attacked and not cell.attack.is_control:
                lows.append(cell.threat.radius)
    found: dict[int, Bracket] = {}
    for image, lows in radii.items():
        high = min(sizes[image], default=None)
        # An epsilon within which an attack failed, though a smaller perturbation succeeds, is no bound.
        low = max((low for low in lows if high is None or low < high), default=0.0)
        found[image] = Bracket(low=low, high=high)
    return found


def _narrow(
    request: Request, model: Model, *, cell: Cell, batch: Batch, brackets: Sequence[Bracket], proofs: Proofs
) -> list[DistanceRow]:
    images, labels, indices = batch.on(request.device)
    target = make_target(model, cell, images, labels, seed=request.config.seed, indices=indices).slow
    norm = cell.threat.norm
    largest = cell.threat.geometry.diameter(target.images.shape[1:])
    own = getattr(cell.attack.with_loss(model.loss), "loss", "margin")
    attack = PGD(steps=max(cell.attack.effort, FEWEST_STEPS), loss=own)
    along = Smallest(steps=REPEATED * attack.steps, loss=own)
    worth = target.criterion.eligible(torch.ones_like(labels, dtype=torch.bool), labels, target.goals).cpu()
    # What is not worth an attack counts as robust everywhere, as it does in the cells.
    low = torch.tensor([bracket.low for bracket in brackets], dtype=torch.float64).masked_fill(~worth, largest)
    high = torch.tensor(
        [torch.inf if bracket.high is None else bracket.high for bracket in brackets], dtype=torch.float64
    )
    robust, walked = (torch.zeros(len(low), dtype=torch.bool) for _ in range(2))
    tries = torch.zeros(len(low), dtype=torch.long)
    passes = torch.zeros(len(low), dtype=torch.long)

    def carry_out(search: AbstractAttack, active: Tensor, epsilons: Tensor) -> Flags:
        """Attack these images, each within its own epsilon; note what is found and what it costs."""
        chosen = target.select(active.to(labels.device))
        judged = attack_and_judge(search, chosen.within(Threat.of(norm, epsilons.to(chosen.images))), subject=cell.key)
        broken = judged.verdicts.success.cpu()
        passes[active] += (judged.trace.forward_passes + judged.trace.backward_passes).cpu()
        high[active[broken]] = torch.minimum(judged.verdicts.sizes.cpu().double()[broken], epsilons[broken])
        return broken

    for _ in range(TRIES + DOUBLINGS):
        begun = (high.isfinite() & (high > 0) & ~walked & worth).nonzero().squeeze(1)
        if len(begun):
            walked[begun] = True
            carry_out(along, begun, high[begun])
            # Where another attack failed within an epsilon, though a smaller perturbation succeeds, all is open.
            low = torch.where(low > high, 0, low)
        tried = _next(low, high, largest, tries)
        active = ((tries < TRIES) & (tried < high) & (tried > low)).nonzero().squeeze(1)
        if len(active) == 0:
            break
        tries[active] += high[active].isfinite()
        broken = carry_out(attack, active, tried[active])
        low[active[~broken]] = tried[active[~broken]]
        robust[active[~broken]] = True
        low = torch.where(robust, torch.minimum(low, high), torch.where(low > high, 0, low))
    proved = proofs.radii(target)
    columns = zip(batch.indices, low.tolist(), high.tolist(), proved, passes.tolist(), strict=True)
    return [
        DistanceRow(
            model=model.name,
            norm=norm,
            image=image,
            low=significant(below) or 0.0,
            high=significant(above),
            certified=proof,
            passes=spent,
        )
        for image, below, above, proof, spent in columns
    ]


def _next(low: Tensor, high: Tensor, largest: float, tries: Tensor) -> Tensor:
    """Slightly within what is known to succeed, later the middle; or twice as far where nothing is."""
    further = torch.where(low > 0, 2 * low, largest / 2 ** (DOUBLINGS - 1)).clamp(max=largest)
    within = torch.where(tries < TRIES // 2, WITHIN * high, (low + high) / 2)
    return torch.where(high.isfinite(), within, further)
