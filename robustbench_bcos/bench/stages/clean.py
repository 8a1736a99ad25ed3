"""Predictions without an attack."""

from collections.abc import Iterator, Sequence

import torch

from robustbench_bcos.attacks.criterion import make_criterion
from robustbench_bcos.bench.batch_size import BatchSize
from robustbench_bcos.bench.cells import Cell
from robustbench_bcos.bench.failures import failures_named
from robustbench_bcos.bench.progress import Progress
from robustbench_bcos.bench.request import Request
from robustbench_bcos.bench.rows import CleanRow
from robustbench_bcos.bench.store import Store
from robustbench_bcos.core.prediction import predicted_classes
from robustbench_bcos.model_zoo.models import Model


def predict_clean(
    request: Request, model: Model, cells: Sequence[Cell], known: Store, size: BatchSize
) -> Iterator[Progress]:
    """Classify every image that is not yet known."""
    done = known.clean(model.name)
    criterion = make_criterion(cells[0].criterion)
    for attempt in size.over(len(request.worked_on)):
        indices = request.worked_on.indices[attempt.start : attempt.stop]
        with attempt as part, torch.no_grad(), failures_named(model, request.subset.dataset, indices, cells[0].work):
            if done.keys() >= set(indices):
                continue
            batch = request.worked_on.batch(part.start, part.stop)
            images, labels, _ = batch.on(request.device)
            outputs = model.classifier(images)
            columns = zip(
                batch.indices,
                batch.labels.tolist(),
                predicted_classes(outputs).tolist(),
                criterion.correct(outputs, labels).tolist(),
                strict=True,
            )
            rows = tuple(
                CleanRow(model=model.name, image=image, label=label, prediction=prediction, correct=correct)
                for image, label, prediction, correct in columns
            )
            yield Progress(cell=cells[0], images=0, rows=rows)
