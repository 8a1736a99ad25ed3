"""Attacks on explanations, evaluated: which maps moved, the evidence, and the rows of ``fooled.csv``.

How far is far enough is not a number of ours: a map has moved by a measure where it is no nearer to the clean map than
that of another image of the class is. No single measure is enough, since each can be cheated.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from statistics import fmean
from typing import TYPE_CHECKING, Any

from robustbench_bcos.attacks import goal_text
from robustbench_bcos.bench.cells import Cell
from robustbench_bcos.bench.identity import RunIdentity
from robustbench_bcos.bench.rows import SPREAD, FooledRow
from robustbench_bcos.bench.store import Store
from robustbench_bcos.core.statistics import wilson
from robustbench_bcos.explanations.similarity import MEASURES, Distance

if TYPE_CHECKING:
    import pandas as pd

FOOLED_BY = ("explanation", "prediction", "noise", "other")
"""What a clean image's map is compared with, evidence not counted."""

EVIDENCE = {"longer": "4 times the steps", "elsewhere": "another goal"}
"""Searches for maps that withstood the first one."""

DECIDING = ("spearman", "cosine", "topk", "mass", "centre")
"""Measures that decide together, by rank, direction, largest pixels and mass."""

SEARCHED = 0.9
"""Share of images for which there must be candidates, or the search says little."""

STEEP = 0.05
"""Share of images that may have met a gradient of 0."""

FARTHER = 0.01
"""Difference of mean cosines that is no chance of a draw."""

Values = Mapping[str, float | None]


def moved_by(values: Values, other: Values) -> list[bool]:
    """For each measure that is defined, whether a map is no nearer to the clean one than another image's is."""
    # Larger is nearer of a similarity, and farther of a distance.
    pairs = [(-1 if isinstance(MEASURES[name], Distance) else 1, values[name], other[name]) for name in DECIDING]
    return [sign * value <= sign * limit for sign, value, limit in pairs if value is not None and limit is not None]


def is_fooled(row: FooledRow, other: Values) -> bool:
    """Whether the prediction is kept and the map has moved by every measure."""
    moved = moved_by(row.values, other)
    return row.kept and all(moved)


def withstands(row: FooledRow, other: Values) -> bool:
    """Whether the prediction cannot be kept, or the map has moved by no measure."""
    return not row.kept or not any(moved_by(row.values, other))


@dataclass(frozen=True, kw_only=True)
class FooledRecord:
    """What attacks did to the explanations of a model. Its fields are the columns of ``fooled.csv``, in their order."""

    model: str
    """Name of the model."""
    method: str
    """Method of explanation."""
    goal: str
    """Where the attack moved the maps."""
    attack: str
    """The search."""
    norm: str
    """Norm of the threat."""
    eps: str
    """Its epsilon as it was written."""
    epsilon: float
    """The same as a number."""
    steps: int
    """Steps of the search."""
    loss: str
    """What the attack on the prediction, with whose outcome ``changed`` is, maximised; maps are moved by their goal."""
    restarts: int
    """Restarts of the search."""
    confidence_band: float | None
    """By how much the confidence was allowed to change; empty where only the class had to stay."""
    images: int
    """Images that the model is right about: those whose explanations were attacked."""
    kept: float | None
    """Share of them for which the attack found a picture with the same prediction, in 256 levels, too."""
    fooled: float | None
    """Share whose prediction is kept while the map is, by rank, direction, largest pixels and mass, no nearer to the
    clean one than that of another image of the class."""
    fooled_low: float | None
    """Lower end of the Wilson 95 % interval of ``fooled``."""
    fooled_high: float | None
    """Upper end."""
    withstood: float | None
    """Share whose map stayed nearer to the clean one than that of another image of the class, by each of these
    measures. Some maps have done neither."""
    withstood_low: float | None
    """Lower end of the Wilson 95 % interval of ``withstood``."""
    withstood_high: float | None
    """Upper end."""
    withstood_worst: float | None
    """The same, less those that a search made for evidence moved."""
    left: float | None
    """Mean of what is left of the way to the goal, from 0 to 1."""
    changed: float | None
    """Share whose prediction the cell's own attack changed."""
    values: Mapping[str, float | None] = field(
        metadata={SPREAD: tuple(f"{m}_{c}" for m in MEASURES for c in FOOLED_BY)}
    )
    """Mean of the measure in that comparison."""
    energies: Mapping[str, float | None] = field(
        metadata={SPREAD: ("energy_clean", *(f"energy_{c}" for c in FOOLED_BY))}
    )
    """Mean share of the maps' positive evidence that is on the object of the class; empty without masks."""
    derivatives: str
    """Second derivatives that were followed: ``own``, or those of ``softplus`` in place of rectifiers; ``none`` where
    they are 0, ``wrong`` where they are not the slopes of the maps."""
    examined: int
    """Images that withstood and were searched again as evidence."""
    passes: int
    """Forward and backward passes, evidence included; those of a map count once."""
    trust: str
    """Of ``withstood``: ``sound``, ``suspect`` or ``unchecked``."""
    reasons: str
    """Why it is suspect."""
    cell: str
    """Key of the cell."""


FOOLED_COLUMNS = tuple(
    name for declared in fields(FooledRecord) for name in declared.metadata.get(SPREAD, (declared.name,))
)


def make_fooled(store: Store, identity: RunIdentity) -> "pd.DataFrame":
    """A row for each cell, method and goal whose maps have all been attacked, in the order of the plan."""
    # Not above: an attack does not wait for tables.
    import pandas as pd

    rows = []
    for record in (record for cell in identity.cells for record in fooled_of(store, cell, identity)):
        columns = asdict(record)
        rows.append(columns | columns.pop("values") | columns.pop("energies"))
    return pd.DataFrame(rows, columns=list(FOOLED_COLUMNS))


def make_fooled_images(store: Store, identity: RunIdentity) -> "pd.DataFrame":
    """Every comparison of every image whose explanation was attacked."""
    # Not above: an attack does not wait for tables.
    import pandas as pd

    rows = [row.to_columns() for cell in identity.cells for row in store.select(FooledRow, cell=cell.key)]
    table = pd.DataFrame(rows, columns=list(FooledRow.columns()))
    flags = [name for name, kind in FooledRow.columns().items() if kind is bool]
    return table.astype(dict.fromkeys(flags, int))


def fooled_of(store: Store, cell: Cell, identity: RunIdentity) -> list[FooledRecord]:
    """What attacks did to the explanations of a cell, by method and goal; nothing until all have been attacked."""
    if identity.maps is None or store.fooled(cell) < set(identity.maps.images):
        return []
    rows: dict[tuple[str, str], list[FooledRow]] = {}
    for row in store.select(FooledRow, cell=cell.key):
        rows.setdefault((row.method, row.goal), []).append(row)
    reported = cell.attack.with_loss(store.model(cell.model).loss).reported(cell.threat)
    attack = {"loss": reported.get("loss", ""), "restarts": reported.get("restarts", 1)}
    return [
        _record(cell, method, goal=goal, rows=found, identity=identity, attack=attack)
        for (method, goal), found in rows.items()
    ]


def _record(
    cell: Cell,
    method: str,
    *,
    goal: str,
    rows: Sequence[FooledRow],
    identity: RunIdentity,
    attack: Mapping[str, Any],
) -> FooledRecord:
    assert identity.maps is not None
    by_comparison: dict[str, dict[int, FooledRow]] = {}
    for row in rows:
        if row.attacked:
            by_comparison.setdefault(row.comparison, {})[row.image] = row
    attacked = by_comparison.get("explanation", {})
    limits = {image: row.values for image, row in by_comparison.get("other", {}).items()}
    # An image alone in its class has no other to be compared with.
    judged = {
        image: row for image, row in attacked.items() if any(limits[image][name] is not None for name in DECIDING)
    }
    fooled = [image for image, row in judged.items() if is_fooled(row, limits[image])]
    stood = [image for image, row in judged.items() if withstands(row, limits[image])]
    again = {name: by_comparison.get(name, {}) for name in EVIDENCE}
    examined = set().union(*again.values())
    moved = {
        name: [image for image, row in found.items() if not withstands(row, limits[image])]
        for name, found in again.items()
    }
    worst = [image for image in stood if not any(image in images for images in moved.values())]
    means = {
        f"{measure}_{comparison}": _mean([row.values[measure] for row in by_comparison.get(comparison, {}).values()])
        for measure in MEASURES
        for comparison in FOOLED_BY
    }
    energies = {
        f"energy_{comparison}": _mean([row.energy for row in by_comparison.get(comparison, {}).values()])
        for comparison in FOOLED_BY
    } | {"energy_clean": _mean([row.energy_clean for row in attacked.values()])}
    reasons = _reasons(attacked, by_comparison.get("noise", {}), moved, len(examined))
    count = len(judged)
    ends: dict[str, Any] = {
        f"{name}_{end}": getattr(wilson(len(images), count), end) if count else None
        for name, images in (("fooled", fooled), ("withstood", stood))
        for end in ("low", "high")
    }
    trust = "unchecked" if identity.evidence == "off" else "suspect" if reasons else "sound"
    return FooledRecord(
        model=cell.model,
        method=method,
        goal=goal_text(goal),
        attack=cell.attack.name,
        norm=cell.threat.norm,
        eps=cell.threat.text,
        epsilon=cell.threat.radius,
        steps=cell.attack.effort,
        **attack,
        confidence_band=identity.maps.band,
        images=len(attacked),
        kept=_share([row.kept for row in attacked.values()]),
        fooled=len(fooled) / count if count else None,
        withstood=len(stood) / count if count else None,
        withstood_worst=len(worst) / count if count else None,
        left=_mean([row.left for row in attacked.values()]),
        changed=_share([not row.kept for row in by_comparison.get("prediction", {}).values()]),
        values=means,
        energies=energies,
        derivatives=next((row.derivatives for row in attacked.values()), ""),
        examined=len(examined),
        passes=sum(row.passes for row in rows),
        trust=trust,
        reasons="; ".join(reasons),
        cell=cell.key,
        **ends,
    )


def _reasons(
    attacked: Mapping[int, FooledRow],
    noise: Mapping[int, FooledRow],
    moved: Mapping[str, Sequence[int]],
    examined: int,
) -> list[str]:
    """What speaks against maps having withstood."""
    if not attacked:
        return []
    rows = list(attacked.values())
    reasons = [
        f"{EVIDENCE[name]} moves {len(images)} of {examined} maps that withstood"
        for name, images in moved.items()
        if images
    ]
    if rows[0].derivatives == "none":
        reasons.append("second derivatives of the model are 0, so that the attack follows the image's share alone")
    if rows[0].derivatives == "wrong":
        reasons.append("gradients of the maps are not their slopes: a layer has no second derivative, or a wrong one")
    flat = _share([row.degenerate_gradient for row in rows]) or 0.0
    if flat > STEEP:
        reasons.append(f"gradients of {flat:.0%} of the maps were 0 or not finite")
    kept = _share([row.kept for row in rows]) or 0.0
    if kept < SEARCHED:
        reasons.append(f"for {1 - kept:.0%} of the images no picture with the same prediction was found")
    ours, theirs = (_mean([row.values["cosine"] for row in found.values()]) for found in (attacked, noise))
    if ours is not None and theirs is not None and theirs < ours - FARTHER:
        reasons.append("noise of the same size moves the maps farther")
    return reasons


def _share(flags: Sequence[bool]) -> float | None:
    return sum(flags) / len(flags) if flags else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return float(f"{fmean(known):.4g}") if known else None
