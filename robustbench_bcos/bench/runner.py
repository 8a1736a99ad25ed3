"""Carries out a plan: model by model, cell by cell, batch by batch; then explanations, and then evidence."""

import time
from collections.abc import Iterator

import torch

from robustbench_bcos.attacks.attack import Attack
from robustbench_bcos.attacks.balls import BALLS
from robustbench_bcos.attacks.losses import margin
from robustbench_bcos.bench.batch_size import BatchSize
from robustbench_bcos.bench.candidates import packed
from robustbench_bcos.bench.cells import Cell
from robustbench_bcos.bench.distances import measure_distances
from robustbench_bcos.bench.evidence.examination import examine
from robustbench_bcos.bench.explaining import explain_cells
from robustbench_bcos.bench.judge import judge
from robustbench_bcos.bench.plan import Plan
from robustbench_bcos.bench.progress import Progress
from robustbench_bcos.bench.store import CleanRow, ModelRow, Store, VerdictRow
from robustbench_bcos.bench.threat import Threat, build_attack, make_threat
from robustbench_bcos.core.prediction import predicted_classes
from robustbench_bcos.core.rounding import significant
from robustbench_bcos.core.seeding import ImageGenerator
from robustbench_bcos.core.types import Flags, Images, Labels
from robustbench_bcos.data.slices import Batch
from robustbench_bcos.explanations.explanation import method_for
from robustbench_bcos.model_zoo.bcos_layers import b_of
from robustbench_bcos.model_zoo.classifier import encoding_of
from robustbench_bcos.model_zoo.models import Model

MARGIN_DIGITS = 3
"""Significant digits of a margin: images are ordered by it, and further ones differ from batch to batch."""


def execute(plan: Plan, store: Store) -> Iterator[Progress]:
    """Do what is not yet in the store, and tell of every batch, those found done included.

    Batches are fixed parts of the slice, whole ones are recorded, so a run that is continued repeats none and meets
    the same batches as one that was never stopped.
    """
    for source in plan.sources:
        cells = [cell for cell in plan.cells if cell.model == source.name]
        if _finished(plan, store, cells):
            explained = len(plan.explained) if plan.explained is not None else 0
            yield from (Progress(cell, len(plan.images) + explained) for cell in cells)
            continue
        model = source.load()
        model.classifier.to(plan.device)
        store.add_model(_row(plan, model))
        size = plan.batch_size(model)
        _record_clean(plan, store, model, size)
        for cell in cells:
            yield from _execute_cell(plan, store, model, cell, size)
        if plan.explained is not None:
            yield from explain_cells(plan, store, model, cells, plan.explained, size)
    if plan.config.evidence != "off":
        yield from _gather_evidence(plan, store)
    if plan.config.distances:
        yield from measure_distances(plan, store)


def _gather_evidence(plan: Plan, store: Store) -> Iterator[Progress]:
    """When every model has been attacked, because models are tried on each other's candidates."""
    expected = plan.checks
    for source in plan.sources:
        cells = [cell for cell in plan.cells if cell.model == source.name]
        if all(len(store.examinations(cell.key)) == expected for cell in cells):
            yield from (Progress(cell, expected * plan.work_of_a_check, "evidence") for cell in cells)
            continue
        model = source.load()
        model.classifier.to(plan.device)
        yield from examine(plan, store, model, cells)


def _execute_cell(plan: Plan, store: Store, model: Model, cell: Cell, size: BatchSize) -> Iterator[Progress]:
    done = store.done(cell)
    clean = store.clean(cell.model)
    attack = build_attack(cell, cell.loss_of(model.loss))
    for attempt in size.over(len(plan.images)):
        with attempt as part:
            indices = plan.images.indices[part]
            if not done.issuperset(indices):
                began = time.perf_counter()
                batch = plan.images.batch(part.start, part.stop)
                correct = torch.tensor([clean[index].prediction == clean[index].label for index in indices])
                rows, candidates = _attack_batch(plan, model, cell, attack, batch, correct)
                store.add_verdicts(rows, time.perf_counter() - began, candidates)
            yield Progress(cell, len(indices))


def _attack_batch(
    plan: Plan, model: Model, cell: Cell, attack: Attack, batch: Batch, correct: Flags
) -> tuple[list[VerdictRow], dict[int, bytes]]:
    """Attack what is classified correctly; what is not counts as fallen without an attack.

    Beside the verdicts, the candidates that are to be tried on other models.
    """
    rows = [VerdictRow(cell.key, index, False, -1, 0.0, False, 0, 0) for index in batch.indices]
    attacked = correct.nonzero().squeeze(1).tolist()
    if not attacked:
        return rows, {}
    indices = [batch.indices[position] for position in attacked]
    threat = make_threat(model.classifier, batch.images[correct].to(plan.device), cell)
    labels = batch.labels[correct].to(plan.device)
    ball, epsilon = BALLS[cell.norm], cell.radius.value
    noise = ImageGenerator.of(plan.config.seed, indices)
    candidates, trace = attack(threat.classifier, threat.images, labels, ball, epsilon, noise)
    verdicts = judge(threat.classifier, threat.images, candidates, ball, epsilon, cell=cell.key, indices=indices)
    fooled = verdicts.predictions != labels
    margins = margin(verdicts.logits.double(), labels).tolist()
    columns = zip(
        verdicts.predictions.tolist(),
        verdicts.sizes.tolist(),
        *(part.tolist() for part in trace),
        [significant(value, MARGIN_DIGITS) for value in margins],
        _in_eight_bits(threat, candidates, labels, fooled),
        strict=True,
    )
    for position, index, (prediction, size, *traced) in zip(attacked, indices, columns, strict=True):
        rows[position] = VerdictRow(cell.key, index, True, prediction, float(f"{size:.6g}"), *traced)
    kept = plan.transferred
    pixels = {index: packed(image) for index, image in zip(indices, candidates, strict=True) if index in kept}
    return rows, pixels


@torch.no_grad()
def _in_eight_bits(threat: Threat, candidates: Images, labels: Labels, fooled: Flags) -> list[bool | None]:
    """Of the candidates that fool, those that do so still when they are stored as a picture is: in k/255."""
    outcome: list[bool | None] = [None] * len(labels)
    where = fooled.nonzero().squeeze(1)
    if len(where):
        rounded = (candidates[where] * 255).round() / 255
        still = predicted_classes(threat.classifier(rounded)) != labels[where]
        for position, fools in zip(where.tolist(), still.tolist(), strict=True):
            outcome[position] = fools
    return outcome


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
            predictions = predicted_classes(model.classifier(batch.images.to(plan.device))).tolist()
            rows = zip(batch.indices, batch.labels.tolist(), predictions, strict=True)
            store.add_clean(CleanRow(model.name, *row) for row in rows)


def _row(plan: Plan, model: Model) -> ModelRow:
    explanation = "" if plan.explained is None else method_for(model.classifier, plan.config.explanation)
    return ModelRow(
        model.name,
        model.family,
        model.architecture,
        model.parameters,
        model.training,
        model.loss,
        model.weights_sha256,
        b_of(model.classifier),
        explanation,
        encoding_of(model.classifier),
    )
