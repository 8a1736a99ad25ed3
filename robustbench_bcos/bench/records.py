"""Rows of results: one per cell, each explaining itself."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from statistics import fmean
from typing import Any, get_type_hints

import pandas as pd

from robustbench_bcos.attacks import UNTARGETED
from robustbench_bcos.bench.cells import Cell
from robustbench_bcos.bench.evidence.trust import Judgement, Outcome, Trust, least_trusted
from robustbench_bcos.bench.fooled import fooled_of
from robustbench_bcos.bench.identity import RunIdentity
from robustbench_bcos.bench.rows import (
    COMPARISONS,
    EXPLAINED_CLASSES,
    CleanRow,
    DistanceRow,
    SimilarityRow,
    VerdictRow,
)
from robustbench_bcos.bench.store import Store
from robustbench_bcos.core.statistics import summarise, wilson
from robustbench_bcos.explanations.similarity import MEASURES


def _option(
    default: str | int | None, *, threat: bool = False, absent: str | int | None = None, usual: str | None = None
) -> Mapping[str, Any]:
    """Metadata of a column for an option of attacks.

    Args:
        default: its value for attacks that do not have the option.
        threat: as for a key.
        absent: as for a key.
        usual: as for a key.
    """
    return {**_key(threat=threat, absent=absent, usual=usual), "option": default}


def _key(*, threat: bool = False, absent: str | int | None = None, usual: str | None = None) -> Mapping[str, Any]:
    """Metadata of a column that tells rows apart.

    Args:
        threat: whether rows must agree in it to be put side by side.
        absent: its value in files of an older version, which lack the column.
        usual: the value that needs no mention; any other is named beside the number, because it says less than a
            reader would take it for.
    """
    return {"key": True, "threat": threat, "absent": absent, "usual": usual}


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One cell's outcome. Its fields are the columns of ``results.csv``, in their order."""

    model: str = field(metadata=_key())
    """Name of the model."""
    family: str
    """``bcos``, ``conventional``, or ``unknown`` for one's own code."""
    architecture: str
    """Name of the architecture, or the class of one's own."""
    parameters: int
    """Number of parameters."""
    training: str
    """What the model's card says of its training; ``unknown`` for one's own code."""
    dataset: str = field(metadata=_key())
    """Name of the dataset."""
    subset: str
    """First 12 digits of the digest of the images as they were attacked, after resizing and cropping: equal subsets,
    equal images. ``run.json`` says in words what was done to them."""
    images: int
    """Number of images evaluated."""
    attack: str = field(metadata=_key(threat=True))
    """Name of the attack."""
    norm: str = field(metadata=_key(threat=True))
    """Name of the norm."""
    eps: str
    """Epsilon as it was written, such as ``8/255``."""
    epsilon: float = field(metadata=_key(threat=True))
    """Its value, in units of the pixel range [0, 1]."""
    steps: int = field(metadata=_option(0, threat=True))
    """Steps of the attack; 0 where it makes none."""
    step_size: float | None = field(metadata=_option(None))
    """Step size of PGD; empty for attacks that find theirs, or make no steps."""
    loss: str = field(metadata=_option(""))
    """What was maximised: what ``auto`` turned out to be."""
    restarts: int = field(metadata=_option(1, threat=True))
    """Restarts of the attack."""
    start: str = field(metadata=_option(""))
    """Where the first restart begins: ``image`` or ``random``."""
    select: str = field(metadata=_option("first_success", usual="first_success"))
    """Which iterate counts."""
    space: str = field(metadata=_key(usual="image"))
    """``image``, or ``encoded`` where the channels of the encoding were perturbed independently to reproduce an old
    number."""
    seed: int = field(metadata=_key())
    """Seed of everything drawn."""
    clean_correct: int
    """Images classified correctly without an attack."""
    clean_accuracy: float
    """Their share."""
    robust_correct: int
    """Images classified correctly without the attack and under it."""
    robust_accuracy: float
    """Their share."""
    ci_low: float
    """Lower bound of Wilson's 95 % interval of ``robust_accuracy``."""
    ci_high: float
    """Upper bound of the same."""
    worst_correct: int
    """Images that stayed robust against everything that was tried on this model within this epsilon: this attack, the
    other attacks of the run, and the checks; ``robust_correct`` where no evidence is gathered."""
    robust_accuracy_worst: float
    """Their share."""
    trust: str
    """``sound``, ``suspect`` or ``unchecked``: see [evidence](evidence.md)."""
    reasons: str
    """The checks that make the row suspect, and those that could not be carried out."""
    degenerate_gradient_share: float | None
    """Of the attacked images, the share for which some gradient of the attack was 0 everywhere, NaN or infinite."""
    mean_perturbation: float | None
    """Mean norm of the perturbations that broke an image, to 4 significant digits: more would be float noise of the
    batches the images were in."""
    forward_passes: int
    """Images passed forward by the attack, over all steps and restarts."""
    backward_passes: int
    """Images passed backward by the attack."""
    weights_sha256: str
    """Digest of the weights."""
    version: str
    """Version of this package."""
    b: float | None
    """Exponent of the B-cos layers; empty for conventional networks."""
    explanation: str
    """How the model was explained; empty where it was not: see [explanations.md](explanations.md)."""
    explained_images: int
    """Images whose maps are compared: the first of the subset, those misclassified without an attack left out."""
    explanation_changed_attack: float | None
    """Of these, the share whose prediction the full attack changed."""
    explanation_changed_noise: float | None
    """The share whose prediction random noise of the same size changed."""
    explanation_changed_other: float | None
    """The share for which another image of the class is predicted to be of another one."""
    encoding: str
    """The first thing the model does to an image; empty where that is not known."""
    queries: int = field(metadata=_option(0, absent=0))
    """Queries of Square, per image and restart; 0 for other attacks."""
    targets: int = field(metadata=_option(0, absent=0))
    """Wrong classes that a targeted attack tries, at most; 0 for other attacks."""
    evidence: str
    """``quick``, ``full`` or ``off``."""
    evidence_images: int
    """Images of the cell that further attacks were spent on."""
    evidence_passes: int
    """Forward and backward passes of all checks of the cell, those of searches that it shares with others included."""
    attack_backend: str
    """How the copy of the network that attacks use was made fast: ``folded`` (filters normalised and norms folded once)
    or not, its memory format, its precision, whether it was compiled. Verdicts never depend on it."""
    inherited: int
    """Images that count as broken because the same attack broke them within a smaller epsilon, or in fewer steps."""
    criterion: str = field(metadata=_key(absent=UNTARGETED, usual=UNTARGETED))
    """What counts as success of the attack."""
    options: str = field(metadata=_key(absent="", usual=""))
    """Options of the attack that have no column of their own, as ``name=value``."""
    assumed: str
    """Of a weights file: what neither it nor the request says of the model, and was therefore assumed, such as
    ``b=2 norm=batch-uncentred encoding=add_inverse``; empty where nothing was."""
    draws: int = field(metadata=_key(absent=1))
    """Draws that each answer of a random model averages (``--eot``), the same for the attack and its judge; 1 for a
    model that is not averaged. Passes count answers, each of which takes so many passes through the network."""
    texts: str
    """Of a model that compares images with texts: how many classes and templates they are, and a digest of all."""
    attacked_maps: str
    """With ``--goal``: methods and goals of attacks on explanations; see [fooled-maps.md](fooled-maps.md)."""
    explanation_fooled_most: float | None
    """Largest share of images whose explanation one of these fooled: ``fooled`` of ``fooled.csv``."""
    explanation_withstood_least: float | None
    """Smallest share of images whose explanation withstood one of these and its evidence: ``withstood_worst`` of
    ``fooled.csv``."""
    worst_ci_low: float
    """Lower bound of Wilson's 95 % interval of ``robust_accuracy_worst``, as tables and pages print it."""
    worst_ci_high: float
    """Upper bound of the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRecord:
    """What one cell says of one image. Its fields are the columns of ``images.csv``, in their order."""

    cell: str
    """Key of the cell: its model and all settings of its attack."""
    model: str
    """Name of the model."""
    image: int
    """Index in the dataset."""
    label: int
    """Its class."""
    prediction: int
    """The class predicted without an attack; -1 where a logit is not finite."""
    correct: bool
    """Whether the model is right without an attack."""
    attacked: bool
    """Whether the image was worth an attack: the model is right about it, and the criterion is not met already."""
    success: bool
    """Whether the judge found that the attack met the criterion."""
    prediction_attacked: int | None
    """The class predicted for the adversarial example; -1 where a logit is not finite; empty where nothing was
    attacked."""
    robust: bool
    """Right without the attack and under it: what ``robust_accuracy`` counts."""
    robust_worst: bool
    """Robust against everything that was tried within this epsilon, too: what ``robust_accuracy_worst`` counts."""
    size: float | None
    """Norm of the perturbation, to 6 significant digits, of which the last may be float noise of the batch it was in;
    empty where nothing was attacked."""
    nearness: float | None
    """How near the image is to success, to 3 significant digits: the margin where any wrong class will do."""
    eight_bit: bool | None
    """Whether the attack still succeeds when pixels are rounded to k/255; empty where it does not succeed."""
    degenerate_gradient: bool
    """Whether some gradient of the attack was 0 everywhere, NaN or infinite."""
    forward_passes: int
    """Forward passes that the attack spent on the image."""
    backward_passes: int
    """Backward passes that the attack spent on the image."""
    inherited: bool
    """Whether the adversarial example is that of a smaller epsilon or of fewer steps."""
    trust: str
    """``sound``, ``suspect`` or ``unchecked``, of the cell: see [evidence](evidence.md)."""


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
    "trust",
)

EVIDENCE_COLUMNS = ("cell", *(column.name for column in fields(Outcome)))

SIMILARITY_COLUMNS = tuple(
    f"explanation_{measure}_{explained_class}_{comparison}"
    for measure in MEASURES
    for explained_class in EXPLAINED_CLASSES
    for comparison in COMPARISONS
)
"""Mean of a measure over the explained images, to 4 significant digits; empty where it is defined for none."""

COLUMNS = (*(column.name for column in fields(Record)), *SIMILARITY_COLUMNS)

KEY = {column.name: column.metadata["absent"] for column in fields(Record) if column.metadata.get("key")}
"""Columns that tell rows apart, each with its value in files that lack it; ``None`` where none may lack it."""

THREAT = tuple(column.name for column in fields(Record) if column.metadata.get("threat"))
"""Columns that rows must agree in to be put side by side."""

USUAL = {
    column.name: column.metadata["usual"]
    for column in fields(Record)
    if column.metadata.get("key") and column.metadata["usual"] is not None
}
"""Columns whose other values are named wherever a row is, each with the value that needs no mention."""

TEXTS = tuple(name for name, kind in get_type_hints(Record).items() if kind is str)
"""Columns of text."""


def make_records(store: Store, identity: RunIdentity, judgement: Judgement | None = None) -> pd.DataFrame:
    """A row for each cell that is complete, in the order of the plan.

    Args:
        store: what was measured.
        identity: the identity of the run it was measured for.
        judgement: of its cells, where it has been made.
    """
    judgement = judgement or Judgement(store, identity)
    rows = [_record(store, cell, identity, judgement.of(cell)) for cell in complete_cells(store, identity)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def complete_cells(store: Store, identity: RunIdentity) -> list[Cell]:
    """Cells of which every image has been attacked, and every image to be explained has been."""
    wanted = identity.explained.all if identity.explained else set()
    return [
        cell for cell in identity.cells if store.judged(cell) == identity.images and store.explained(cell) >= wanted
    ]


def make_evidence(store: Store, identity: RunIdentity, judgement: Judgement | None = None) -> pd.DataFrame:
    """A row for each check of each cell that is complete, in the order of the plan."""
    judgement = judgement or Judgement(store, identity)
    rows = [
        {"cell": cell.key, **asdict(outcome)}
        for cell in complete_cells(store, identity)
        for outcome in judgement.of(cell).outcomes
    ]
    return pd.DataFrame(rows, columns=list(EVIDENCE_COLUMNS))


def make_images(store: Store, identity: RunIdentity, judgement: Judgement | None = None) -> pd.DataFrame:
    """A row for each image of each cell that is complete, in the order of the plan; truths are 1 and 0."""
    judgement = judgement or Judgement(store, identity)
    tables = [_images_of(store, cell, judgement) for cell in complete_cells(store, identity)]
    columns = [column.name for column in fields(ImageRecord)]
    return pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)


def _images_of(store: Store, cell: Cell, judgement: Judgement) -> pd.DataFrame:
    """By column, because rows of millions of images take minutes."""
    table = pd.DataFrame(store.columns(VerdictRow, cell=cell.key))
    clean = pd.DataFrame(store.columns(CleanRow, model=cell.model)).set_index("image").loc[table["image"]]
    attacked = table["attacked"] == 1
    correct = clean["correct"].to_numpy()
    robust = correct * (1 - table["success"])
    return table.assign(
        model=cell.model,
        label=clean["label"].to_numpy(),
        prediction=clean["prediction"].to_numpy(),
        correct=correct,
        # Whole numbers that may be missing: pandas would make fractions of them.
        prediction_attacked=table["prediction"].astype("Int64").where(attacked),
        eight_bit=table["eight_bit"].astype("Int64"),
        robust=robust,
        robust_worst=robust * ~table["image"].isin(judgement.broken_elsewhere(cell)),
        size=table["size"].where(attacked),
        nearness=table["nearness"].astype(float),
        trust=judgement.of(cell).trust,
    )


def make_distances(store: Store, identity: RunIdentity) -> pd.DataFrame:
    """A row for each image of each model and norm whose distances are all known, in the order of the plan."""
    pairs = dict.fromkeys((cell.model, cell.threat.norm) for cell in identity.cells)
    rows = []
    for model, norm in pairs:
        found = store.select(DistanceRow, model=model, norm=norm)
        if len(found) == identity.images:
            rows += [row.to_columns() for row in found]
    return pd.DataFrame(rows, columns=list(DistanceRow.columns()))


def make_curves(distances: pd.DataFrame, records: pd.DataFrame) -> pd.DataFrame:
    """A row for each model and norm: the median distance, and the area under accuracy over epsilon.

    ``area`` is the mean of each image's distance, cut off at the largest epsilon of the run for that norm and divided
    by it: 1 where every image is robust at every epsilon, 0 where all are misclassified when clean. Its interval is the
    t interval of that mean, so it covers the sampling of images and nothing else. ``trust`` is the least of the run's
    rows of that model and norm.

    Args:
        distances: rows of :func:`make_distances`.
        records: rows of ``results.csv``.
    """
    rows = []
    for (model, norm), found in distances.groupby(["model", "norm"], sort=False):
        most = float(records.loc[records["norm"] == norm, "epsilon"].max())
        # An image that no attack broke is farther away than any other.
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
                "trust": least_trusted(records.loc[(records["model"] == model) & (records["norm"] == norm), "trust"]),
            }
        )
    return pd.DataFrame(rows, columns=list(CURVE_COLUMNS))


def make_similarities(store: Store, identity: RunIdentity) -> pd.DataFrame:
    """A row for each image, comparison and class of each cell that is complete, in the order of the plan.

    ``counted`` says whether the row is part of the means of ``results.csv``.
    """
    rows = []
    for cell in complete_cells(store, identity):
        counted = _counted(store, cell, identity)
        for row in store.select(SimilarityRow, cell=cell.key):
            flags = {"changed": int(row.changed), "counted": int(row.image in counted)}
            rows.append(row.to_columns() | flags)
    columns = ["cell", "image", "comparison", "explained_class", "changed", "counted", *MEASURES]
    return pd.DataFrame(rows, columns=columns)


def _counted(store: Store, cell: Cell, identity: RunIdentity) -> set[int]:
    """Explained images that were classified correctly when clean; of others an attack has nothing to change."""
    if identity.explained is None:
        return set()
    clean = store.clean(cell.model)
    return {image for image in identity.explained.images if clean[image].correct}


def _similarity_means(store: Store, cell: Cell, identity: RunIdentity) -> dict[str, Any]:
    counted = _counted(store, cell, identity)
    # An image alone in its class was compared with no other.
    rows = [
        row
        for row in store.select(SimilarityRow, cell=cell.key)
        if row.image in counted and any(value is not None for value in row.values.values())
    ]
    means: dict[str, Any] = {"explained_images": len(counted)}
    for comparison in COMPARISONS:
        changed = [row.changed for row in rows if (row.comparison, row.explained_class) == (comparison, "true")]
        means[f"explanation_changed_{comparison}"] = sum(changed) / len(changed) if changed else None
        for explained_class in EXPLAINED_CLASSES:
            chosen = [row for row in rows if (row.comparison, row.explained_class) == (comparison, explained_class)]
            for measure in MEASURES:
                values = [value for row in chosen if (value := row.values[measure]) is not None]
                name = f"explanation_{measure}_{explained_class}_{comparison}"
                means[name] = float(f"{fmean(values):.4g}") if values else None
    return means


def _record(store: Store, cell: Cell, identity: RunIdentity, trust: Trust) -> dict[str, Any]:
    model = store.model(cell.model)
    sums = store.sums(cell)
    similarity_means = _similarity_means(store, cell, identity)
    maps = fooled_of(store, cell, identity)
    interval = wilson(sums.robust_correct, sums.images)
    worst = wilson(trust.worst_correct, sums.images)
    robust = sums.robust_correct / sums.images
    record = Record(
        model=model.name,
        family=model.family,
        architecture=model.architecture,
        parameters=model.parameters,
        training=model.training,
        dataset=identity.dataset,
        subset=identity.subset[:12],
        images=sums.images,
        attack=cell.attack.name,
        norm=cell.threat.norm,
        eps=cell.threat.text,
        epsilon=cell.threat.radius,
        **_options(cell, model.loss),
        space=cell.space,
        seed=identity.seed,
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
        degenerate_gradient_share=sums.degenerate_gradient / sums.attacked if sums.attacked else None,
        mean_perturbation=float(f"{sums.broken_size / sums.broken:.4g}") if sums.broken else None,
        forward_passes=sums.forward_passes,
        backward_passes=sums.backward_passes,
        weights_sha256=model.weights_sha256,
        version=identity.version,
        b=model.b,
        explanation=model.explanation,
        explained_images=similarity_means.pop("explained_images"),
        explanation_changed_attack=similarity_means.pop("explanation_changed_attack"),
        explanation_changed_noise=similarity_means.pop("explanation_changed_noise"),
        explanation_changed_other=similarity_means.pop("explanation_changed_other"),
        encoding=model.encoding,
        evidence=identity.evidence,
        evidence_images=trust.examined,
        evidence_passes=trust.passes,
        attack_backend=model.attack_backend,
        assumed=model.assumed,
        inherited=sums.inherited,
        criterion=cell.criterion,
        draws=model.draws,
        texts=model.texts,
        attacked_maps=", ".join(f"{one.method} {one.goal}" for one in maps),
        explanation_fooled_most=max((one.fooled for one in maps if one.fooled is not None), default=None),
        explanation_withstood_least=min(
            (one.withstood_worst for one in maps if one.withstood_worst is not None), default=None
        ),
        worst_ci_low=worst.low,
        worst_ci_high=worst.high,
    )
    return asdict(record) | similarity_means


def _options(cell: Cell, loss: str) -> dict[str, Any]:
    """What the options of the cell's attack amount to: those that have a column there, the others as text."""
    columns = {column.name: column.metadata["option"] for column in fields(Record) if "option" in column.metadata}
    reported = cell.attack.with_loss(loss).reported(cell.threat)
    others = {option: value for option, value in reported.items() if option not in columns}
    text = " ".join(f"{option}={value}" for option, value in others.items() if value != _default(cell, option))
    return columns | {option: value for option, value in reported.items() if option in columns} | {"options": text}


def _default(cell: Cell, option: str) -> object:
    return next((field.default for field in fields(cell.attack) if field.name == option), None)
