"""How far each image is from falling: the smallest epsilon that fools, by bisection.

It begins with what the grid already knows: the largest radius an image withstood, and the smallest delta that was found
to fool it. A delta found within some radius is often shorter than the radius, so a step can be more than a half.
"""

import time
from collections.abc import Iterator

import torch
from torch import Tensor

from robustbench_bcos.attacks.losses import LOSSES
from robustbench_bcos.attacks.norms import NORMS
from robustbench_bcos.attacks.pgd import PGD
from robustbench_bcos.bench.cells import Cell
from robustbench_bcos.bench.judge import judge
from robustbench_bcos.bench.plan import Plan
from robustbench_bcos.bench.progress import Progress
from robustbench_bcos.bench.rows import DistanceRow, TimingRow
from robustbench_bcos.bench.store import Store
from robustbench_bcos.bench.target import make_target
from robustbench_bcos.core.rounding import significant
from robustbench_bcos.data.subset import Batch, EvalSubset
from robustbench_bcos.model_zoo.models import Model, ModelSource

HALVINGS = 7
"""Radii tried for an image that is known to fall; the last interval is at most a 128th of the first."""

DOUBLINGS = 12
"""Radii tried at most for an image that is not, each twice the one before, up to the whole pixel range."""

FEWEST_STEPS = 20


def measure_distances(plan: Plan, store: Store, source: ModelSource) -> Iterator[Progress]:
    """Find what is not yet in the store, for every norm, batch by batch."""
    for norm in plan.config.norm:
        cells = [cell for cell in plan.cells_of(source) if cell.norm == norm]
        cell = max(cells, key=lambda cell: cell.steps)
        known = {row.image for row in store.select(DistanceRow, model=source.name, norm=norm)}
        missing = [image for image in plan.images.indices if image not in known]
        yield Progress(cell, len(plan.images) - len(missing), "distances")
        if missing:
            yield from _measure(plan, store, plan.load(source), cells, cell, missing)


def _measure(
    plan: Plan, store: Store, model: Model, cells: list[Cell], cell: Cell, missing: list[int]
) -> Iterator[Progress]:
    clean = store.clean(model.name)
    brackets = _brackets(store, cells)
    for attempt in plan.batch_size(model).over(len(missing)):
        with attempt as part:
            began = time.perf_counter()
            indices = missing[part]
            wrong = [image for image in indices if clean[image].prediction != clean[image].label]
            rows = [
                DistanceRow(model=model.name, norm=cell.norm, image=image, low=0.0, high=0.0, passes=0)
                for image in wrong
            ]
            right = tuple(image for image in indices if image not in wrong)
            if right:
                batch = EvalSubset(plan.images.dataset, right).batch(0, len(right))
                rows += _bisect(plan, model, cell, batch, [brackets[image] for image in right])
            seconds = time.perf_counter() - began
            store.add(*rows, TimingRow(cell=cell.key, work="distances", images=0, seconds=seconds))
            yield Progress(cell, len(indices), "distances")


def _brackets(store: Store, cells: list[Cell]) -> dict[int, tuple[float, float | None]]:
    """What the cells of a model and norm know of each image: not fooled within the first, fooled by the second."""
    radii: dict[int, list[float]] = {}
    sizes: dict[int, list[float]] = {}
    for cell in cells:
        withstood = set(store.robust(cell))
        for row in store.verdicts(cell):
            lows, highs = radii.setdefault(row.image, []), sizes.setdefault(row.image, [])
            # That random noise fools nobody says nothing.
            if row.image in withstood and cell.attack != "noise":
                lows.append(cell.radius.value)
            elif row.attacked and row.image not in withstood:
                highs.append(row.size)
    found: dict[int, tuple[float, float | None]] = {}
    for image, lows in radii.items():
        high = min(sizes[image], default=None)
        # A radius that an attack missed within, though a smaller delta fools, is no bound.
        found[image] = (max((low for low in lows if high is None or low < high), default=0.0), high)
    return found


def _bisect(
    plan: Plan, model: Model, cell: Cell, batch: Batch, brackets: list[tuple[float, float | None]]
) -> list[DistanceRow]:
    images, labels, _ = batch.on(plan.device)
    threat = make_target(model, images, cell)
    ball = NORMS[cell.norm]
    largest = ball.diameter(threat.images.shape[1:])
    loss = "margin" if cell.loss in ("", "targeted_dlr") else cell.loss_of(model.loss)
    attack = PGD(steps=max(cell.steps, FEWEST_STEPS), loss=LOSSES[loss])
    low = torch.tensor([low for low, _ in brackets], dtype=torch.float64)
    high = torch.tensor([torch.inf if high is None else high for _, high in brackets], dtype=torch.float64)
    withstood = torch.zeros(len(low), dtype=torch.bool)
    halvings = torch.zeros(len(low), dtype=torch.long)
    passes = torch.zeros(len(low), dtype=torch.long)
    for _ in range(HALVINGS + DOUBLINGS):
        tried = _next(low, high, largest)
        active = ((halvings < HALVINGS) & (tried < high) & (tried > low)).nonzero().squeeze(1)
        if len(active) == 0:
            break
        epsilon = tried[active].to(threat.images)
        images, right = threat.images[active], labels[active]
        candidates, trace = attack(threat.classifier, images, right, ball, epsilon)
        indices = [batch.indices[place] for place in active.tolist()]
        verdicts = judge(threat.classifier, images, candidates, ball, epsilon, cell=cell.key, indices=indices)
        fell = (verdicts.predictions != right).cpu()
        passes[active] += (trace.forward_passes + trace.backward_passes).cpu()
        halvings[active] += high[active].isfinite()
        high[active[fell]] = torch.minimum(verdicts.sizes.cpu().double()[fell], tried[active[fell]])
        low[active[~fell]] = tried[active[~fell]]
        withstood[active[~fell]] = True
        # What another attack missed within a radius, though a smaller delta fools, is searched for from the beginning.
        low = torch.where(withstood, torch.minimum(low, high), torch.where(low > high, 0, low))
    rows = zip(batch.indices, low.tolist(), high.tolist(), passes.tolist(), strict=True)
    return [
        DistanceRow(
            model=model.name,
            norm=cell.norm,
            image=image,
            low=significant(below) or 0.0,
            high=significant(above),
            passes=spent,
        )
        for image, below, above, spent in rows
    ]


def _next(low: Tensor, high: Tensor, largest: float) -> Tensor:
    """The middle, or twice as far where nothing is known to fool."""
    further = torch.where(low > 0, 2 * low, largest / 2 ** (DOUBLINGS - 1)).clamp(max=largest)
    return torch.where(high.isfinite(), (low + high) / 2, further)
