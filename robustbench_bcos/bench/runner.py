"""Carries out a plan, stage by stage: attacks and explanations, evidence, distances. Models do not meet in a stage."""

import time
from collections.abc import Iterator
from functools import partial

import torch

from robustbench_bcos.bench.attacking import Attacker, carried
from robustbench_bcos.bench.batch_size import BatchSize
from robustbench_bcos.bench.cells import Cell
from robustbench_bcos.bench.distances import measure_distances
from robustbench_bcos.bench.evidence.examination import examine
from robustbench_bcos.bench.explaining import explain_cells
from robustbench_bcos.bench.plan import Plan
from robustbench_bcos.bench.progress import Progress
from robustbench_bcos.bench.rows import CleanRow, ModelRow, TimingRow
from robustbench_bcos.bench.store import Store
from robustbench_bcos.bench.threads import in_threads
from robustbench_bcos.core.prediction import predicted_classes
from robustbench_bcos.explanations.explanation import method_for
from robustbench_bcos.model_zoo.bcos_layers import b_of
from robustbench_bcos.model_zoo.classifier import encoding_of
from robustbench_bcos.model_zoo.models import Model, ModelSource

BATCHES = 4
"""In a part of the slice that is attacked as a whole, where images that fall make room for others. Its end, when few
are left in the batch, comes once; and an interruption loses one part at most."""


def execute(plan: Plan, store: Store) -> Iterator[Progress]:
    """Do what is not yet in the store, and tell of every batch, those found done included.

    What is attacked together is a fixed part of the slice, whole ones are recorded, so a run that is continued repeats
    none and meets the same batches as one that was never stopped.
    """
    stages = [_attack]
    if plan.config.evidence != "off":
        # When every model has been attacked, because models are tried on each other's candidates.
        stages.append(_gather_evidence)
    if plan.config.distances:
        stages.append(measure_distances)
    for stage in stages:
        yield from in_threads([partial(stage, plan, store, source) for source in plan.sources], plan.jobs)


def _attack(plan: Plan, store: Store, source: ModelSource) -> Iterator[Progress]:
    cells = plan.cells_of(source)
    if _finished(plan, store, cells):
        explained = len(plan.explained) if plan.explained is not None else 0
        yield from (Progress(cell, len(plan.images) + explained) for cell in cells)
        return
    model = plan.load(source)
    store.add(_row(plan, model))
    size = plan.batch_size(model)
    _record_clean(plan, store, model, size)
    # Smaller radii and fewer steps first: what they find needs no further attack.
    for cell in sorted(cells, key=lambda cell: cell.effort):
        yield from _execute_cell(plan, store, model, cell, size)
    if plan.explained is not None:
        yield from explain_cells(plan, store, model, cells, plan.explained, size)


def _gather_evidence(plan: Plan, store: Store, source: ModelSource) -> Iterator[Progress]:
    expected = plan.checks
    cells = plan.cells_of(source)
    if all(len(store.evidence(cell.key)) == expected for cell in cells):
        yield from (Progress(cell, expected * plan.work_of_a_check, "evidence") for cell in cells)
        return
    yield from examine(plan, store, plan.load(source), cells)


def _execute_cell(plan: Plan, store: Store, model: Model, cell: Cell, size: BatchSize) -> Iterator[Progress]:
    done = store.done(cell)
    clean = store.clean(cell.model)
    attacker = Attacker(plan, model, cell, carried(plan, store, cell), size)
    for attempt in size.over(len(plan.images), BATCHES if cell.refills else 1):
        with attempt as part:
            indices = plan.images.indices[part]
            if not done.issuperset(indices):
                began = time.perf_counter()
                batch = plan.images.batch(part.start, part.stop)
                correct = [clean[index].prediction == clean[index].label for index in indices]
                rows, adversarials = attacker(batch, correct)
                seconds = time.perf_counter() - began
                timing = TimingRow(cell=cell.key, work="attack", images=len(rows), seconds=seconds)
                store.add(*rows, *adversarials, timing)
            yield Progress(cell, len(indices))


def _finished(plan: Plan, store: Store, cells: list[Cell]) -> bool:
    explained = len(plan.explained) if plan.explained is not None else 0
    return all(len(store.done(cell)) == len(plan.images) and len(store.explained(cell)) == explained for cell in cells)


def _record_clean(plan: Plan, store: Store, model: Model, size: BatchSize) -> None:
    known = store.clean(model.name)
    for attempt in size.over(len(plan.images)):
        with attempt as part, torch.no_grad():
            if known.keys() >= set(plan.images.indices[part]):
                continue
            batch = plan.images.batch(part.start, part.stop)
            predictions = predicted_classes(model.classifier(batch.on(plan.device).images)).tolist()
            images = zip(batch.indices, batch.labels.tolist(), predictions, strict=True)
            store.add(
                *(
                    CleanRow(model=model.name, image=image, label=label, prediction=prediction)
                    for image, label, prediction in images
                )
            )


def _row(plan: Plan, model: Model) -> ModelRow:
    explanation = "" if plan.explained is None else method_for(model.classifier, plan.config.explanation)
    return ModelRow(
        name=model.name,
        family=model.family,
        architecture=model.architecture,
        parameters=model.parameters,
        training=model.training,
        loss=model.loss,
        weights_sha256=model.weights_sha256,
        b=b_of(model.classifier),
        explanation=explanation,
        encoding=encoding_of(model.classifier),
        attack_backend=model.search,
    )
