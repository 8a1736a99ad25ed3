"""Rows of results: one per cell, each explaining itself."""

from dataclasses import dataclass, fields
from typing import Any

import pandas as pd

from robustbench_bcos.attacks.pgd import RELATIVE_STEP
from robustbench_bcos.bench.cells import Cell
from robustbench_bcos.bench.store import Store
from robustbench_bcos.core.statistics import wilson


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One cell's outcome, in the order of the columns of ``results.csv``."""

    model: str
    family: str
    architecture: str
    parameters: int
    training: str
    dataset: str
    slice: str
    """First 12 digits of the digest of the images: equal slices, equal images."""
    images: int
    """Images evaluated."""
    attack: str
    norm: str
    eps: str
    """Radius as it was written."""
    epsilon: float
    """Its value in units of the pixel range."""
    steps: int
    step_size: float | None
    loss: str
    restarts: int
    start: str
    count: str
    space: str
    seed: int
    clean_correct: int
    clean_accuracy: float
    robust_correct: int
    robust_accuracy: float
    ci_low: float
    """Lower bound of Wilson's 95 % interval of robust_accuracy."""
    ci_high: float
    worst_correct: int
    """Images that withstood everything that was tried on them; equals robust_correct until evidence is gathered."""
    robust_accuracy_worst: float
    trust: str
    """``sound``, ``suspect`` or ``unchecked``."""
    reasons: str
    zero_gradient_share: float | None
    """Of the attacked images, those for which some gradient on the way was 0, NaN or infinite."""
    mean_delta: float | None
    """Mean size of the deltas of images that were classified correctly and fell, to 4 significant digits: further ones
    are float noise of the batches the images were in."""
    forward_passes: int
    """Images passed forward by the attack, over all steps and restarts."""
    backward_passes: int
    weights_sha256: str
    version: str


COLUMNS = tuple(field.name for field in fields(Record))


def make_records(store: Store, identity: dict[str, Any]) -> pd.DataFrame:
    """A row for each cell that is complete, in the order of the plan.

    Args:
        store: what was measured.
        identity: the identity of the run it was measured for.
    """
    cells = map(Cell.from_dict, identity["cells"])
    rows = [_record(store, cell, identity) for cell in cells if len(store.done(cell)) == identity["images"]]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _record(store: Store, cell: Cell, identity: dict[str, Any]) -> Record:
    model = store.model(cell.model)
    sums = store.sums(cell)
    interval = wilson(sums.robust_correct, sums.images)
    robust = sums.robust_correct / sums.images
    return Record(
        model=model.name,
        family=model.family,
        architecture=model.architecture,
        parameters=model.parameters,
        training=model.training,
        dataset=identity["dataset"],
        slice=identity["slice"][:12],
        images=sums.images,
        attack=cell.attack,
        norm=cell.norm,
        eps=cell.radius.text,
        epsilon=cell.radius.value,
        steps=cell.steps,
        step_size=_step_size(cell),
        loss=cell.loss_of(model.loss),
        restarts=cell.restarts,
        start=cell.start,
        count=cell.count,
        space=cell.space,
        seed=identity["seed"],
        clean_correct=sums.clean_correct,
        clean_accuracy=sums.clean_correct / sums.images,
        robust_correct=sums.robust_correct,
        robust_accuracy=robust,
        ci_low=interval.low,
        ci_high=interval.high,
        worst_correct=sums.robust_correct,
        robust_accuracy_worst=robust,
        trust="unchecked",
        reasons="",
        zero_gradient_share=sums.zero_gradient / sums.clean_correct if sums.clean_correct else None,
        mean_delta=float(f"{sums.fallen_size / sums.fallen:.4g}") if sums.fallen else None,
        forward_passes=sums.forward_passes,
        backward_passes=sums.backward_passes,
        weights_sha256=model.weights_sha256,
        version=identity["version"],
    )


def _step_size(cell: Cell) -> float | None:
    if cell.steps == 0:
        return None
    return RELATIVE_STEP * cell.radius.value / cell.steps if cell.step_size is None else cell.step_size.value
