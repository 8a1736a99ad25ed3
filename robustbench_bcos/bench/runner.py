"""Carries out a request, stage by stage, and writes the rows that stages yield. A stage sees one model at a time."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from robustbench_bcos.bench.batch_size import BatchSize
from robustbench_bcos.bench.cells import Cell
from robustbench_bcos.bench.certified import why_uncertified
from robustbench_bcos.bench.evidence.check import AbstractCellCheck, checks_of, is_finished
from robustbench_bcos.bench.progress import Progress
from robustbench_bcos.bench.request import Request
from robustbench_bcos.bench.rows import DistanceRow, ModelRow, SmoothedRow
from robustbench_bcos.bench.schedule import Schedule
from robustbench_bcos.bench.stages.attack import attack_cell
from robustbench_bcos.bench.stages.certify import certify_smoothed
from robustbench_bcos.bench.stages.clean import predict_clean
from robustbench_bcos.bench.stages.distances import measure_distances
from robustbench_bcos.bench.stages.evidence import gather_evidence
from robustbench_bcos.bench.stages.explain import explain_cells
from robustbench_bcos.bench.stages.fool import fool_maps
from robustbench_bcos.bench.store import Store
from robustbench_bcos.bench.threads import in_threads
from robustbench_bcos.explanations.explanation import method_for
from robustbench_bcos.model_zoo.bcos.layers import b_of
from robustbench_bcos.model_zoo.classifier import encoding_of
from robustbench_bcos.model_zoo.draws import draws_of
from robustbench_bcos.model_zoo.models import Model, ModelSource

Stage = Callable[[Request, Model, list[Cell], Store, BatchSize], Iterator[Progress]]


def attack_cells(
    request: Request, model: Model, cells: Sequence[Cell], known: Store, size: BatchSize
) -> Iterator[Progress]:
    """Clean predictions and attacks."""
    yield Progress(cell=cells[0], images=0, rows=(_row(request, model),))
    yield from predict_clean(request, model, cells, known, size)
    # Smaller radii and fewer steps first: what they find needs no further attack.
    for cell in sorted(cells, key=lambda cell: cell.effort):
        yield from attack_cell(request, model, cell, known, size)


STAGES: Mapping[str, Stage] = {
    "attack": attack_cells,
    "explain": explain_cells,
    "evidence": gather_evidence,
    "distances": measure_distances,
    "fool": fool_maps,
    "certify": certify_smoothed,
}
"""What can be done of a model elsewhere: attacks first; the others need what they have found, and not one another."""


def execute(request: Request, store: Store) -> Iterator[Progress]:
    """Do what is not yet in the store, and report every piece of work, those found done included."""
    stages: list[tuple[Stage, Callable[[Request, Store, list[Cell]], list[Progress]]]] = [(_attack, _attacked)]
    if request.config.evidence != "off":
        # When every model has been attacked, because models are tried on each other's adversarial examples.
        stages.append((gather_evidence, _examined))
    if request.config.distances:
        stages.append((measure_distances, _measured))
    if request.fooled is not None:
        stages.append((fool_maps, _fooled))
    if request.identity.smoothed is not None:
        stages.append((certify_smoothed, _certified))
    jobs = Schedule(request=request).jobs
    for stage, finished in stages:
        tasks = [partial(_of_model, request, store, source, stage, finished) for source in request.sources]
        yield from in_threads(tasks, jobs)


def _of_model(
    request: Request,
    store: Store,
    source: ModelSource,
    stage: Stage,
    finished: Callable[[Request, Store, list[Cell]], list[Progress]],
) -> Iterator[Progress]:
    """A stage of one model; the model is not loaded where everything is known."""
    cells = request.cells_of(source)
    known = finished(request, store, cells)
    if known:
        yield from known
        return
    model = request.models.get(source)
    for progress in stage(request, model, cells, store, request.batch_size(model)):
        store.add(*progress.rows)
        yield progress


def _attack(request: Request, model: Model, cells: list[Cell], known: Store, size: BatchSize) -> Iterator[Progress]:
    """Clean predictions, attacks and explanations."""
    yield from attack_cells(request, model, cells, known, size)
    yield from explain_cells(request, model, cells, known, size)


def _attacked(request: Request, store: Store, cells: Sequence[Cell]) -> list[Progress]:
    """What is done of a model of which everything has been attacked and explained."""
    images, explained = len(request.subset), len(request.explained or ())
    done = all(len(store.done(cell)) == images and len(store.explained(cell)) == explained for cell in cells)
    return [Progress(cell=cell, images=images + explained) for cell in cells] if done else []


def _examined(request: Request, store: Store, cells: Sequence[Cell]) -> list[Progress]:
    """What is done of a model of which all cells have been checked."""
    evidence = request.config.evidence
    images = len(checks_of(evidence, AbstractCellCheck)) * request.work_of_a_check
    done = all(is_finished(evidence, cell, store) for cell in cells)
    return [Progress(cell=cell, images=images) for cell in cells] if done else []


def _measured(request: Request, store: Store, cells: Sequence[Cell]) -> list[Progress]:
    """What is done of a model of which all distances are known."""
    images, of_norm = len(request.subset), {cell.threat.norm: cell for cell in cells}
    done = all(len(store.select(DistanceRow, model=cells[0].model, norm=norm)) == images for norm in of_norm)
    return [Progress(cell=cell, images=images) for cell in of_norm.values()] if done else []


def _fooled(request: Request, store: Store, cells: Sequence[Cell]) -> list[Progress]:
    """What is done of a model of which all explanations have been attacked."""
    images, moving = len(request.fooled or ()), request.moving_cells(cells)
    done = all(len(store.fooled(cell)) == images for cell in moving)
    return [Progress(cell=cell, images=images) for cell in moving] if done else []


def _certified(request: Request, store: Store, cells: Sequence[Cell]) -> list[Progress]:
    """What is done of a model that has been certified."""
    asked, images = request.identity.smoothed, len(request.subset)
    assert asked is not None
    done = {(row.certificate, row.sigma, row.image) for row in store.select(SmoothedRow, model=cells[0].model)}
    whole = len(done) == images * len(asked.certificates) * len(asked.sigmas)
    return [Progress(cell=cells[0], images=len(done))] if whole else []


def _row(request: Request, model: Model) -> ModelRow:
    explanation = "" if request.explained is None else method_for(model.classifier, request.config.explanation)
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
        attack_backend=model.attack_backend,
        assumed=model.assumed,
        uncertified=why_uncertified(model.classifier, request.subset.batch(0, 1).images.to(request.device))
        if request.config.distances
        else "",
        draws=draws_of(model.classifier),
        texts=model.texts,
    )
