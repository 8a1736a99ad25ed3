"""Rows of results: one per cell, each explaining itself."""

from dataclasses import asdict, dataclass, fields
from statistics import fmean
from typing import Any

import pandas as pd

from robustbench_bcos.attacks.pgd import RELATIVE_STEP
from robustbench_bcos.bench.cells import Cell
from robustbench_bcos.bench.shifts import COMPARISONS, EXPLAINED_CLASSES
from robustbench_bcos.bench.store import Store
from robustbench_bcos.core.statistics import wilson
from robustbench_bcos.explanations.differences import MEASURES


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
    b: float | None
    """Exponent of B-cos layers."""
    explanation: str
    """How the model was explained; empty where it was not."""
    explained_images: int
    """Images whose maps are compared: the first of the slice, those misclassified when clean left out."""
    explanation_changed_attack: float | None
    """Of these, the share whose prediction the full attack changed."""
    explanation_changed_noise: float | None
    """The share whose prediction random noise of the same size changed."""
    explanation_changed_other: float | None
    """The share for which another image of the class is predicted to be of another one."""
    encoding: str
    """The first thing the model does to an image; empty where that is not known."""


SHIFT_COLUMNS = tuple(
    f"explanation_{measure}_{explained_class}_{comparison}"
    for measure in MEASURES
    for explained_class in EXPLAINED_CLASSES
    for comparison in COMPARISONS
)
"""Mean of a measure over the explained images, to 4 significant digits; empty where it is defined for none."""

COLUMNS = (*(field.name for field in fields(Record)), *SHIFT_COLUMNS)


def make_records(store: Store, identity: dict[str, Any]) -> pd.DataFrame:
    """A row for each cell that is complete, in the order of the plan.

    Args:
        store: what was measured.
        identity: the identity of the run it was measured for.
    """
    rows = [_record(store, cell, identity) for cell in complete_cells(store, identity)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def complete_cells(store: Store, identity: dict[str, Any]) -> list[Cell]:
    """Cells of which every image has been attacked, and every image to be explained has been."""
    explained = identity["explained"] or {"images": [], "pictured": []}
    wanted = {*explained["images"], *explained["pictured"]}
    cells = map(Cell.from_dict, identity["cells"])
    return [cell for cell in cells if len(store.done(cell)) == identity["images"] and store.explained(cell) >= wanted]


def make_shifts(store: Store, identity: dict[str, Any]) -> pd.DataFrame:
    """A row for each image, comparison and class of each cell that is complete, in the order of the plan.

    ``counted`` says whether the row is part of the means of ``results.csv``.
    """
    rows = []
    for cell in complete_cells(store, identity):
        counted = _counted(store, cell, identity)
        for row in store.shifts(cell):
            named = dict(zip(MEASURES, row.values, strict=True))
            rows.append({**row._asdict(), **named, "changed": int(row.changed), "counted": int(row.image in counted)})
    columns = ["cell", "image", "comparison", "explained_class", "changed", "counted", *MEASURES]
    return pd.DataFrame(rows, columns=columns)


def _counted(store: Store, cell: Cell, identity: dict[str, Any]) -> set[int]:
    """Explained images that were classified correctly when clean; of others an attack has nothing to change."""
    if identity["explained"] is None:
        return set()
    clean = store.clean(cell.model)
    return {image for image in identity["explained"]["images"] if clean[image].prediction == clean[image].label}


def _shift_means(store: Store, cell: Cell, identity: dict[str, Any]) -> dict[str, Any]:
    counted = _counted(store, cell, identity)
    # An image alone in its class was compared with no other.
    rows = [row for row in store.shifts(cell) if row.image in counted and any(v is not None for v in row.values)]
    means: dict[str, Any] = {"explained_images": len(counted)}
    for comparison in COMPARISONS:
        changed = [row.changed for row in rows if (row.comparison, row.explained_class) == (comparison, "true")]
        means[f"explanation_changed_{comparison}"] = sum(changed) / len(changed) if changed else None
        for explained_class in EXPLAINED_CLASSES:
            chosen = [row for row in rows if (row.comparison, row.explained_class) == (comparison, explained_class)]
            for place, measure in enumerate(MEASURES):
                values = [value for row in chosen if (value := row.values[place]) is not None]
                name = f"explanation_{measure}_{explained_class}_{comparison}"
                means[name] = float(f"{fmean(values):.4g}") if values else None
    return means


def _record(store: Store, cell: Cell, identity: dict[str, Any]) -> dict[str, Any]:
    model = store.model(cell.model)
    sums = store.sums(cell)
    shift_means = _shift_means(store, cell, identity)
    interval = wilson(sums.robust_correct, sums.images)
    robust = sums.robust_correct / sums.images
    record = Record(
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
        b=model.b,
        explanation=model.explanation,
        explained_images=shift_means.pop("explained_images"),
        explanation_changed_attack=shift_means.pop("explanation_changed_attack"),
        explanation_changed_noise=shift_means.pop("explanation_changed_noise"),
        explanation_changed_other=shift_means.pop("explanation_changed_other"),
        encoding=model.encoding,
    )
    return asdict(record) | shift_means


def _step_size(cell: Cell) -> float | None:
    if cell.steps == 0 or cell.attack == "apgd":
        return None
    return RELATIVE_STEP * cell.radius.value / cell.steps if cell.step_size is None else cell.step_size.value
