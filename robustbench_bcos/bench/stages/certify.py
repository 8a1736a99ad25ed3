"""What is certified of models whose images get Gaussian noise, certificate by certificate."""

import time
from collections.abc import Iterator, Sequence

from robustbench_bcos.bench.batch_size import BatchSize
from robustbench_bcos.bench.cells import Cell
from robustbench_bcos.bench.failures import failures_named
from robustbench_bcos.bench.progress import Progress
from robustbench_bcos.bench.request import Request
from robustbench_bcos.bench.rows import SmoothedRow, TimingRow
from robustbench_bcos.bench.store import Store
from robustbench_bcos.certificates import CERTIFICATES
from robustbench_bcos.certificates.certificate import Smoothed
from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.data.subset import EvalSubset
from robustbench_bcos.model_zoo.models import Model

RECORDED = 16
"""Images that are recorded together."""


def certify_smoothed(
    request: Request, model: Model, cells: Sequence[Cell], known: Store, size: BatchSize
) -> Iterator[Progress]:
    """Certify what is not known yet. The model itself is asked, and not the copy that attacks query."""
    asked = request.identity.smoothed
    assert asked is not None
    cell, together = cells[0], size.images
    size = BatchSize(min(RECORDED, together))
    smallest = size.images
    for name in asked.certificates:
        for sigma in asked.sigmas:
            done = {row.image for row in known.select(SmoothedRow, model=model.name, certificate=name, sigma=sigma)}
            missing = [image for image in request.worked_on.indices if image not in done]
            yield Progress(cell=cell, images=len(request.worked_on) - len(missing))
            for attempt in size.over(len(missing)):
                indices = tuple(missing[attempt.start : attempt.stop])
                with attempt, failures_named(model, request.subset.dataset, indices, cell.work):
                    began = time.perf_counter()
                    smoothed = Smoothed(
                        classifier=model.classifier,
                        sigma=sigma,
                        draws=asked.draws,
                        alpha=asked.alpha,
                        method=asked.method,
                        # Fewer where memory ran out.
                        batch_size=max(1, together * size.images // smallest),
                    )
                    rows = _rows(request, model, name, smoothed, indices)
                    timing = TimingRow(cell=cell.key, work="smoothing", images=0, seconds=time.perf_counter() - began)
                    yield Progress(cell=cell, images=len(indices), rows=(*rows, timing))


def _rows(request: Request, model: Model, name: str, smoothed: Smoothed, indices: tuple[int, ...]) -> list[SmoothedRow]:
    images, labels, _ = EvalSubset(request.subset.dataset, indices).batch(0, len(indices)).on(request.device)
    rows = []
    for place, (index, label) in enumerate(zip(indices, labels.tolist(), strict=True)):
        rng = PerImageRng.of(request.config.seed, [index]).fold_in(name)
        found = CERTIFICATES[name].certify(smoothed, images[place : place + 1], label, rng)
        rows += [
            SmoothedRow(
                model=model.name,
                certificate=name,
                sigma=smoothed.sigma,
                image=index,
                part=part,
                smoothed_prediction=found.prediction,
                smoothed_radius=radius,
            )
            for part, radius in enumerate(found.radii, start=1)
        ]
    return rows
