"""Runs with pictures, made by hand: what is drawn depends on no model."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from robustbench_bcos.bench.pictures import Array, Picture, View
from robustbench_bcos.bench.records import COLUMNS, ImageRecord
from robustbench_bcos.bench.rows import COMPARISONS, EXPLAINED_CLASSES, PictureRow
from robustbench_bcos.explanations.similarity import MEASURES
from robustbench_bcos.reports.run_folder import RunFolder
from tests.bench.by_hand import identity_of
from tests.reports import handmade

HEIGHT, WIDTH = 6, 5
TOTAL = handmade.TOTAL
NAMES = ("cat", "ship", "frog", "deer")


def view(random: np.random.Generator, pixels: Array, prediction: int, confidence: float = 0.75) -> View:
    explanation = random.uniform(size=(HEIGHT, WIDTH, 4)).astype(np.float32)
    contributions = random.normal(size=(HEIGHT, WIDTH)).astype(np.float32)
    return View(
        pixels=pixels,
        explanation=explanation,
        contributions=contributions,
        prediction=prediction,
        confidence=confidence,
    )


def picture(
    image: int, *, label: int | None = 0, before: int = 0, after: int | None = 1, change: float = 0.1
) -> Picture:
    """An image whose content is decided by its index.

    Args:
        image: index in the dataset.
        label: its class.
        before: the class predicted.
        after: the class predicted when attacked, or ``None`` where there was no attack.
        change: the largest that an attack did to a channel of a pixel.
    """
    random = np.random.default_rng(image)
    pixels = random.uniform(0.3, 0.7, size=(3, HEIGHT, WIDTH)).astype(np.float32)
    clean = view(random, pixels, before)
    if after is None:
        return Picture(image=image, label=label, clean=clean, attacked=None)
    delta = random.uniform(-1, 1, size=pixels.shape)
    moved = pixels + (change * delta / np.abs(delta).max()).astype(np.float32)
    return Picture(image=image, label=label, clean=clean, attacked=view(random, moved, after, 0.5))


def rows_of(cell: str, pictures: Sequence[Picture]) -> list[PictureRow]:
    """Pictures as a store gives them; those that are predicted to be of another class than before fell."""
    fell = [
        one.attacked is not None and one.clean.prediction == one.label != one.attacked.prediction for one in pictures
    ]
    return [PictureRow.of(cell, one, broken=down) for one, down in zip(pictures, fell, strict=True)]


def record(model: str, robust: int, *, eps: float = 0.5, clean: int = 190, **changes: Any) -> dict[str, Any]:
    """One row of results, with epsilon as a number."""
    assert changes.keys() <= set(COLUMNS)
    return handmade.record(model, robust, clean=clean, **{"eps": f"{eps:g}", "epsilon": eps} | changes)


def explained(cosines: Mapping[str, float], images: int = 50) -> dict[str, Any]:
    """What a row of results says of explanations.

    Args:
        cosines: mean of each comparison.
        images: number explained.
    """
    means = {f"explanation_cosine_true_{comparison}": value for comparison, value in cosines.items()}
    return {"explanation": "dynamic", "explained_images": images, "explanation_changed_attack": 0.5, **means}


def similarities_of(
    cell: str, cosines: Mapping[str, Sequence[float | None]], *, counted: int = 1
) -> list[dict[str, Any]]:
    """Rows of ``explanations.csv``, one for each cosine; other measures are 0.5, and for the predicted class 0.25.

    Args:
        cell: the cell they belong to.
        cosines: of the images 0, 1, ... in each comparison.
        counted: whether they are part of the means.
    """
    assert cosines.keys() <= set(COMPARISONS)
    return [
        {
            "cell": cell,
            "image": image,
            "comparison": comparison,
            "explained_class": explained_class,
            "changed": 0,
            "counted": counted,
            **dict.fromkeys(MEASURES, 0.5),
            "cosine": value if explained_class == "true" else 0.25,
        }
        for comparison, values in cosines.items()
        for image, value in enumerate(values)
        for explained_class in EXPLAINED_CLASSES
    ]


def images_of(cell: str, model: str, outcomes: str, *, labels: Sequence[int] = ()) -> list[dict[str, Any]]:
    """Rows of ``images.csv``.

    Args:
        cell: the cell they belong to.
        model: its model.
        outcomes: of the images 0, 1, ...: ``b`` for broken by the attack, ``e`` by something else, ``r`` for robust
            and ``m`` for misclassified before.
        labels: their classes; by default 0 and 1 in turn.
    """
    rows = []
    for image, outcome in enumerate(outcomes):
        label = labels[image] if labels else image % 2
        record = ImageRecord(
            cell=cell,
            model=model,
            image=image,
            label=label,
            prediction=2 if outcome == "m" else label,
            correct=outcome != "m",
            attacked=outcome != "m",
            success=outcome == "b",
            prediction_attacked=None if outcome == "m" else 3 if outcome == "b" else label,
            robust=outcome in "re",
            robust_worst=outcome == "r",
            size=None if outcome == "m" else 0.123456,
            nearness=None,
            eight_bit=True if outcome == "b" else None,
            degenerate_gradient=False,
            forward_passes=1,
            backward_passes=1,
            inherited=False,
            trust="sound",
        )
        rows.append(asdict(record))
    return rows


def run_of(
    rows: Sequence[dict[str, Any]],
    folder: Path = Path("nowhere"),
    *,
    pictures: Mapping[int, Sequence[Picture]] | None = None,
    similarities: Sequence[dict[str, Any]] = (),
    image_rows: Sequence[dict[str, Any]] = (),
    names: Sequence[str] = NAMES,
    missing: int = 0,
    **session: Any,
) -> RunFolder:
    """A run whose complete cells, "cell 0", "cell 1", ... have these rows.

    Args:
        rows: of results.
        folder: where it is.
        pictures: by number of the cell.
        similarities: rows of ``explanations.csv``.
        image_rows: rows of ``images.csv``.
        names: of the classes.
        missing: number of cells that are not complete.
        session: what is different in the description of the session.
    """
    records = pd.DataFrame(list(rows), columns=list(COLUMNS))
    cells = [f"cell {number}" for number in range(len(records))]
    known = pictures or {}
    return RunFolder(
        folder=folder,
        identity=identity_of(
            *[handmade.CELL] * (len(records) + missing), dataset=records["dataset"].iloc[0], images=TOTAL
        ),
        records=records,
        timings=pd.DataFrame([{"cell": cell, "attack_seconds": 1.25, "explanation_seconds": 0.5} for cell in cells]),
        similarities=pd.DataFrame(list(similarities)),
        cells=cells,
        evidence=pd.DataFrame(),
        transfers=pd.DataFrame(),
        distances=pd.DataFrame(),
        images=pd.DataFrame(list(image_rows)),
        pictures={cell: rows_of(cell, known.get(number, ())) for number, cell in enumerate(cells)},
        session={
            "started": "2026-01-02T03:04:05+00:00",
            "command": "robustbench_bcos run --model net",
            "class_names": list(names),
            "images": [],
            "versions": {"python": "3.12.1"},
            "device": "x86_64 CPU, 1 threads",
            "commit": None,
        }
        | session,
    )
