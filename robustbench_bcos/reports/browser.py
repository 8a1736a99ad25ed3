"""Every image of a run for the page, to be looked through by model, attack, class and outcome."""

import io
from base64 import b64encode
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from robustbench_bcos.bench.pictures import Array, Picture
from robustbench_bcos.core.text import counted
from robustbench_bcos.reports.panels import Pixels, change_of_pixels, in_bytes, largest_change, on_grey
from robustbench_bcos.reports.run_folder import RunFolder
from robustbench_bcos.reports.tables import column_names, strongest

ROWS = 200_000
"""Images of all cells together that a page may hold; what is more is in ``images.csv`` alone."""

OUTCOMES = {
    "b": "broken",
    "e": "broken by something else",
    "r": "robust",
    "m": "misclassified without an attack",
}
"""What can have become of an image. ``broken by something else``: by another attack of the run or by a check, within
the same epsilon; it does not count as robust."""

TILES = ("image", "attacked", "difference", "explanation", "explanation, attacked")

LARGEST = 64
"""Pixels of a side of a small picture."""


def browsable(run: RunFolder) -> dict[str, Any] | None:
    """What the page's script reads, or ``None`` where there is nothing, or too much for a page.

    ``images`` and ``labels`` are those of the evaluation subset. Each of ``cells`` has, in their order, the class
    predicted ``before`` and ``after`` the attack, a letter of :data:`OUTCOMES` and the size of the perturbation.
    """
    if not 0 < len(run.images) <= ROWS:
        return None
    by_cell = dict(list(run.images.groupby("cell", sort=False)))
    names = column_names(run.records) + [
        f", {counted(steps, 'step')}" if steps else "" for steps in run.records["steps"]
    ]
    pictured = set(strongest(run.records.assign(cell=run.cells))["cell"])
    first = by_cell[run.cells[0]]
    return {
        "classes": run.class_names,
        "outcomes": OUTCOMES,
        "tiles": TILES,
        "images": first["image"].tolist(),
        "labels": first["label"].tolist(),
        "cells": [
            {
                "model": str(model),
                "attack": name,
                "before": by_cell[cell]["prediction"].tolist(),
                "after": _or_none(by_cell[cell]["prediction_attacked"]),
                "outcomes": "".join(map(_outcome, by_cell[cell].to_dict("records"))),
                "sizes": [None if pd.isna(size) else float(f"{size:.4g}") for size in by_cell[cell]["size"]],
                "pictures": _pictures([row.picture for row in run.pictures[cell]]) if cell in pictured else None,
            }
            for model, name, cell in zip(run.records["model"], names, run.cells, strict=True)
        ],
    }


def _outcome(row: dict[Any, Any]) -> str:
    if not row["correct"]:
        return "m"
    if row["success"]:
        return "b"
    return "r" if row["robust_worst"] else "e"


def _or_none(values: pd.Series) -> list[int | None]:
    return [None if pd.isna(value) else int(value) for value in values]


def _pictures(pictures: Sequence[Picture]) -> dict[str, Any] | None:
    """One sheet with a row of tiles for each image, the images in its order, and how wide a row is for its height."""
    shown = [picture for picture in pictures if picture.attacked is not None]
    if not shown:
        return None
    scale = largest_change(shown)
    rows = [np.concatenate([_tile(one) for one in _views(picture, scale)], axis=1) for picture in shown]
    kind = "png" if max(shown[0].clean.contributions.shape) <= LARGEST else "jpeg"
    content = io.BytesIO()
    Image.fromarray(np.concatenate(rows)).save(content, kind)
    return {
        "sheet": f"data:image/{kind};base64,{b64encode(content.getvalue()).decode('ascii')}",
        "images": [picture.image for picture in shown],
        "aspect": rows[0].shape[1] / rows[0].shape[0],
    }


def _views(picture: Picture, scale: float) -> list[Array]:
    assert picture.attacked is not None
    return [
        np.moveaxis(picture.clean.pixels, 0, 2),
        np.moveaxis(picture.attacked.pixels, 0, 2),
        change_of_pixels(picture, scale),
        on_grey(picture.clean),
        on_grey(picture.attacked),
    ]


def _tile(colours: Array) -> Pixels:
    """A small picture, with a line of white beside it and below."""
    picture = Image.fromarray(in_bytes(colours))
    picture.thumbnail((LARGEST, LARGEST))
    tile: Pixels = np.pad(np.asarray(picture), ((0, 1), (0, 1), (0, 0)), constant_values=255)
    return tile
