"""The checks of a model and of its cells, once every model has been attacked."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import torch

from robustbench_bcos.bench.batch_size import BatchSize
from robustbench_bcos.bench.cells import Cell
from robustbench_bcos.bench.evidence.answers import ASKED
from robustbench_bcos.bench.evidence.check import AbstractCellCheck, AbstractModelCheck, NotApplicable, checks_of
from robustbench_bcos.bench.evidence.contexts import CellContext, ModelContext
from robustbench_bcos.bench.failures import failures_named
from robustbench_bcos.bench.progress import Progress
from robustbench_bcos.bench.request import Request
from robustbench_bcos.bench.rows import EvidenceRow, ResultRow, Row, TimingRow
from robustbench_bcos.bench.store import Store
from robustbench_bcos.core.devices import is_out_of_memory
from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.model_zoo.models import Model

Examine = Callable[[], tuple[Iterable[Row], str]]
"""Gives rows, and what they do not say."""


def gather_evidence(
    request: Request, model: Model, cells: Sequence[Cell], known: Store, size: BatchSize
) -> Iterator[Progress]:
    """Carry out the checks that are not known yet: those of the model with its first cell, those of cells for each."""
    done = known.evidence(model.name)
    first = next(cell for cell in request.cells if cell.model == model.name)
    for model_check in checks_of(request.config.evidence, AbstractModelCheck):
        if first in cells and model_check.name not in done:
            examine: Examine = partial(_examine_model, request, model, known, model_check)
            with failures_named(model, request.subset.dataset, request.subset.indices[:ASKED], cells[0].work):
                rows = _carried_out(examine, model.name, model_check.name, cells)
            yield Progress(cell=cells[0], images=0, rows=rows)
    found: dict[tuple[object, ...], dict[int, ResultRow]] = {}
    for cell in cells:
        context = CellContext(request=request, model=model, cell=cell, known=known, size=size, found=found)
        done = known.evidence(cell.key)
        for check in checks_of(request.config.evidence, AbstractCellCheck):
            rows = ()
            if check.name not in done:
                examine = partial(_examine_cell, context, check)
                with failures_named(model, request.subset.dataset, (), f"{cell.work}, check {check.name},"):
                    rows = _carried_out(examine, cell.key, check.name, [cell])
            yield Progress(cell=cell, images=request.work_of_a_check, rows=rows)


def _carried_out(examine: Examine, subject: str, check: str, cells: Sequence[Cell]) -> tuple[Row, ...]:
    """The results of a check, that it was carried out or why not, and how long it took these cells together."""
    began = time.perf_counter()
    rows: list[Row] = []
    finding = skipped = ""
    try:
        found, finding = examine()
        rows = list(found)
    except NotApplicable as reason:
        rows, skipped = [], str(reason)
    except (RuntimeError, MemoryError) as error:
        # Checks that look at a fixed number of images do so at once.
        if not is_out_of_memory(error):
            raise
        rows, skipped = [], "memory ran out"
    seconds = (time.perf_counter() - began) / len(cells)
    timings = [TimingRow(cell=cell.key, work="evidence", images=0, seconds=seconds) for cell in cells]
    carried_out = EvidenceRow(subject=subject, check=check, skipped_because=skipped, finding=finding)
    return (*rows, carried_out, *timings)


def _examine_cell(context: CellContext, check: AbstractCellCheck) -> tuple[Iterable[Row], str]:
    return check.examine(context), ""


def _examine_model(
    request: Request, model: Model, known: Store, check: AbstractModelCheck
) -> tuple[Iterable[Row], str]:
    batch = request.subset.batch(0, ASKED)
    images, labels, indices = batch.on(request.device)
    clean = known.clean(model.name)
    before = torch.tensor([clean[image].prediction for image in indices], device=request.device)
    context = ModelContext(
        classifier=model.classifier,
        images=images,
        labels=labels,
        predictions=before,
        subset=request.subset,
        rng=PerImageRng.of(request.config.seed, indices),
        alternatives=model.alternatives,
    )
    found = check.examine(context)
    examined = request.subset.indices[: len(found.against)]
    return found.rows(model.name, check.name, dict.fromkeys(examined, "nearest")), found.finding
