"""Carries out the explanations of a plan, for one model at a time."""

import time
from collections.abc import Iterator, Sequence
from itertools import cycle, islice

from robustbench_bcos.attacks.norms import NORMS
from robustbench_bcos.bench.batch_size import BatchSize
from robustbench_bcos.bench.cells import Cell
from robustbench_bcos.bench.pictures import Picture
from robustbench_bcos.bench.plan import Plan
from robustbench_bcos.bench.progress import Progress
from robustbench_bcos.bench.rows import PictureRow, SimilarityRow, TimingRow
from robustbench_bcos.bench.similarity import (
    Seen,
    Similarity,
    attack_in_full,
    compare_explanations,
    noise_of_size,
    see,
    views,
)
from robustbench_bcos.bench.store import Store
from robustbench_bcos.bench.target import AttackTarget, build_attack, make_target
from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.core.rounding import significant
from robustbench_bcos.data.subset import Batch, EvalSubset
from robustbench_bcos.explanations.explanation import method_for
from robustbench_bcos.model_zoo.models import Model

PICTURES = 6
"""Pictures kept of a cell: of so many images that fell and so many that did not, and of the first so many."""


def explain_cells(
    plan: Plan, store: Store, model: Model, cells: Sequence[Cell], explained: EvalSubset, size: BatchSize
) -> Iterator[Progress]:
    """Explain what is not yet in the store, batch by batch: clean images once, attacked ones for each cell."""
    others = companions(explained)
    for attempt in size.over(len(explained)):
        with attempt as part:
            batch = explained.batch(part.start, part.stop)
            pending = [cell for cell in cells if not store.explained(cell).issuperset(batch.indices)]
            if pending:
                explainer = _Explainer(plan, model, pending[0], batch, others.batch(part.start, part.stop))
            for cell in cells:
                if cell in pending:
                    began = time.perf_counter()
                    after, rows = explainer.attack(cell)
                    pictures = _kept(plan, store, cell, explainer.pictures(after))
                    seconds = time.perf_counter() - began
                    timing = TimingRow(cell=cell.key, work="explanation", images=len(batch.indices), seconds=seconds)
                    store.add(*rows, *pictures, timing)
                yield Progress(cell, len(batch.indices), "explanation")


def companions(images: EvalSubset) -> EvalSubset:
    """For each image the next one of its class, the first after the last; an only one is its own."""
    labels = [images.dataset.labels[index] for index in images.indices]
    same = {label: [i for i, other in zip(images.indices, labels, strict=True) if other == label] for label in labels}
    following = {label: islice(cycle(indices), 1, None) for label, indices in same.items()}
    return EvalSubset(images.dataset, tuple(next(following[label]) for label in labels))


class _Explainer:
    """The explanations of one batch: of its clean images, and of the other images they are compared with."""

    def __init__(self, plan: Plan, model: Model, cell: Cell, batch: Batch, others: Batch) -> None:
        self.model = model
        self.method = method_for(model.classifier, plan.config.explanation)
        self.batch = batch
        self.others = others
        images, self.labels, _ = batch.on(plan.device)
        self.generator = PerImageRng.of(plan.config.seed, batch.indices)
        # All cells of a run are in one space.
        self.threat = make_target(model, images, cell)
        self.clean = self._see(self.threat, self.generator)
        self.other = self._see(
            make_target(model, others.on(plan.device).images, cell),
            PerImageRng.of(plan.config.seed, others.indices),
        )

    def attack(self, cell: Cell) -> tuple[Seen, list[SimilarityRow]]:
        """The attacked batch as the model sees it, and how far its maps and those of the controls are away."""
        attack = build_attack(cell, cell.loss_of(self.model.loss))
        attacked = attack_in_full(attack, self.threat, self.labels, cell, self.generator)
        noise = noise_of_size(self.threat.images, attacked.sizes, NORMS[cell.norm], self.generator)
        after = self._see(self.threat._replace(images=attacked.candidates), self.generator)
        noisy = self._see(self.threat._replace(images=noise), self.generator)
        return after, [
            *self._rows(cell, compare_explanations(self.clean, after, "attack")),
            *self._rows(cell, compare_explanations(self.clean, noisy, "noise")),
            *self._rows(cell, compare_explanations(self.clean, self.other, "other")),
        ]

    def _see(self, threat: AttackTarget, generator: PerImageRng) -> Seen:
        return see(threat.classifier, threat.images, self.labels, self.method, generator)

    def _rows(self, cell: Cell, shifts: Sequence[Similarity]) -> list[SimilarityRow]:
        rows = []
        for shift in shifts:
            columns = {measure: values.tolist() for measure, values in shift.values.items()}
            for position, (index, changed) in enumerate(zip(self.batch.indices, shift.changed.tolist(), strict=True)):
                alone = shift.comparison == "other" and index == self.others.indices[position]
                rows.append(
                    SimilarityRow(
                        cell=cell.key,
                        image=index,
                        comparison=shift.comparison,
                        explained_class=shift.explained_class,
                        changed=bool(changed),
                        values={
                            measure: None if alone else significant(column[position])
                            for measure, column in columns.items()
                        },
                    )
                )
        return rows

    def pictures(self, after: Seen) -> list[tuple[Picture, bool]]:
        """All images of the batch, and whether each fell."""
        labels = self.batch.labels.tolist()
        fell = (self.clean.predictions == self.labels) & (after.predictions != self.labels)
        clean, attacked = views(self.clean, self.model.loss), views(after, self.model.loss)
        columns = zip(self.batch.indices, labels, clean, attacked, fell.tolist(), strict=True)
        return [(Picture(*values), down) for *values, down in columns]


def _kept(plan: Plan, store: Store, cell: Cell, pictures: Sequence[tuple[Picture, bool]]) -> list[PictureRow]:
    """Those asked for, or the first; and the first of each fate, so that both can be shown."""
    always = plan.config.images or plan.images.indices[:PICTURES]
    counts = store.pictured(cell, [picture.image for picture, _ in pictures])
    kept = []
    for picture, fell in pictures:
        if picture.image in always or (counts[fell] < PICTURES and not picture.wrong_before):
            kept.append(PictureRow.of(cell.key, picture, broken=fell))
            counts[fell] += not picture.wrong_before
    return kept
