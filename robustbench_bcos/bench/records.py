"""Rows of results: one per cell, each explaining itself."""

import math
from dataclasses import asdict, dataclass, fields
from statistics import fmean
from typing import Any

import pandas as pd

from robustbench_bcos.attacks.pgd import RELATIVE_STEP
from robustbench_bcos.bench.cells import Cell
from robustbench_bcos.bench.evidence.trust import Judgement, Outcome, Trust
from robustbench_bcos.bench.similarity import COMPARISONS, EXPLAINED_CLASSES
from robustbench_bcos.bench.store import DistanceRow, Store
from robustbench_bcos.core.rounding import rounded
from robustbench_bcos.core.statistics import summarise, wilson
from robustbench_bcos.explanations.similarity import MEASURES


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
    """Quantity as it was written."""
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
    """Images that withstood everything that was tried on this model within this radius: this attack, the other attacks
    of the run, and the checks; equals robust_correct where no evidence is gathered."""
    robust_accuracy_worst: float
    trust: str
    """``sound``, ``suspect`` or ``unchecked``."""
    reasons: str
    degenerate_gradient_share: float | None
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
    queries: int
    """Of Square, per image and restart."""
    targets: int
    """Wrong classes a targeted search aims at, at most."""
    evidence: str
    """``quick``, ``full`` or ``off``."""
    evidence_images: int
    """Images of the cell that further attacks were spent on."""
    evidence_passes: int
    """Forward and backward passes of all checks of the cell."""
    search: str
    """How the network was made fast that attacks walked on: ``folded`` or not, its memory format and precision."""
    carried: int
    """Images that count as fallen because the same attack fooled them within a smaller radius, or in fewer steps."""


CURVE_COLUMNS = (
    "model",
    "norm",
    "images",
    "median_distance",
    "up_to",
    "area",
    "area_low",
    "area_high",
    "passes",
)

SIMILARITY_COLUMNS = tuple(
    f"explanation_{measure}_{explained_class}_{comparison}"
    for measure in MEASURES
    for explained_class in EXPLAINED_CLASSES
    for comparison in COMPARISONS
)
"""Mean of a measure over the explained images, to 4 significant digits; empty where it is defined for none."""

COLUMNS = (*(field.name for field in fields(Record)), *SIMILARITY_COLUMNS)


def make_records(store: Store, identity: dict[str, Any], judgement: Judgement | None = None) -> pd.DataFrame:
    """A row for each cell that is complete, in the order of the plan.

    Args:
        store: what was measured.
        identity: the identity of the run it was measured for.
        judgement: on its cells, where somebody has it already.
    """
    judgement = judgement or Judgement(store, identity)
    rows = [_record(store, cell, identity, judgement.of(cell)) for cell in complete_cells(store, identity)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def complete_cells(store: Store, identity: dict[str, Any]) -> list[Cell]:
    """Cells of which every image has been attacked, and every image to be explained has been."""
    explained = identity["explained"] or {"images": [], "pictured": []}
    wanted = {*explained["images"], *explained["pictured"]}
    return [
        cell
        for cell in map(Cell.from_dict, identity["cells"])
        if len(store.done(cell)) == identity["images"] and store.explained(cell) >= wanted
    ]


def make_evidence(store: Store, identity: dict[str, Any], judgement: Judgement | None = None) -> pd.DataFrame:
    """A row for each check of each cell that is complete, in the order of the plan."""
    judgement = judgement or Judgement(store, identity)
    rows = [
        {"cell": cell.key, **outcome._asdict()}
        for cell in complete_cells(store, identity)
        for outcome in judgement.of(cell).outcomes
    ]
    return pd.DataFrame(rows, columns=["cell", *Outcome._fields])


def make_distances(store: Store, identity: dict[str, Any]) -> pd.DataFrame:
    """A row for each image of each model and norm whose distances are all known, in the order of the plan."""
    pairs = dict.fromkeys((cell["model"], cell["norm"]) for cell in identity["cells"])
    rows = []
    for model, norm in pairs:
        found = store.distances(model, norm)
        if len(found) == identity["images"]:
            rows += [row._asdict() for row in found.values()]
    return pd.DataFrame(rows, columns=list(DistanceRow._fields))


def make_curves(distances: pd.DataFrame, records: pd.DataFrame) -> pd.DataFrame:
    """A row for each model and norm: the median distance, and the area under accuracy over epsilon.

    ``area`` is the mean of each image's distance, cut off at the largest epsilon of the run for that norm and divided
    by it: 1 where every image withstands everything, 0 where all are misclassified when clean. Its interval is the t
    interval of that mean, so it covers the sampling of images and nothing else.

    Args:
        distances: rows of :func:`make_distances`.
        records: rows of ``results.csv``.
    """
    rows = []
    for (model, norm), found in distances.groupby(["model", "norm"], sort=False):
        most = float(records.loc[records["norm"] == norm, "epsilon"].max())
        # An image that nothing fooled is farther away than any other.
        reached = found["high"].astype(float).fillna(math.inf)
        area = summarise([min(distance, most) / most if most else 0.0 for distance in reached])
        median = float(reached.median())
        rows.append(
            {
                "model": model,
                "norm": norm,
                "images": len(found),
                "median_distance": median if math.isfinite(median) else None,
                "up_to": most,
                "area": area.mean,
                "area_low": area.interval.low,
                "area_high": area.interval.high,
                "passes": int(found["passes"].sum()),
            }
        )
    return pd.DataFrame(rows, columns=list(CURVE_COLUMNS))


def make_similarities(store: Store, identity: dict[str, Any]) -> pd.DataFrame:
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
                means[name] = rounded(fmean(values), 4) if values else None
    return means


def _record(store: Store, cell: Cell, identity: dict[str, Any], trust: Trust) -> dict[str, Any]:
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
        worst_correct=trust.worst_correct,
        robust_accuracy_worst=trust.worst_correct / sums.images,
        trust=trust.trust,
        reasons=trust.reasons,
        degenerate_gradient_share=sums.degenerate_gradient / sums.clean_correct if sums.clean_correct else None,
        mean_delta=rounded(sums.fallen_size / sums.fallen, 4) if sums.fallen else None,
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
        queries=cell.queries,
        targets=cell.targets,
        evidence=identity["evidence"],
        evidence_images=trust.examined,
        evidence_passes=trust.passes,
        search=model.search,
        carried=sums.carried,
    )
    return asdict(record) | shift_means


def _step_size(cell: Cell) -> float | None:
    # The others find theirs, or make no steps.
    if cell.attack != "pgd":
        return None
    return RELATIVE_STEP * cell.radius.value / cell.steps if cell.step_size is None else cell.step_size.value
