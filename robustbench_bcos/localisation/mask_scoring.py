"""Scores of maps against masks that somebody has already, from any code."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from robustbench_bcos.core.arrays import Array
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.maps import at_mask, energies
from robustbench_bcos.localisation.masks import (
    AVERAGE_PRECISION,
    ENERGY,
    ENERGY_RATIO,
    IOU,
    THRESHOLDS,
    areas,
    average_precisions,
    best_threshold,
    iou_curves,
)

if TYPE_CHECKING:
    import pandas as pd


def score_masks(
    maps: Array,
    masks: Array,
    classes: Array,
    *,
    void: int | None = 255,
    pictures: Sequence[int] | None = None,
) -> "pd.DataFrame":
    """How maps score against masks, a row for each map; what is not defined is NaN.

    Columns are ``energy``, ``energy_ratio``, ``average_precision`` and ``iou``, as in ``localise --game masks``;
    ``threshold``, the share of its largest value from which on a map counts for ``iou``, the best one on the other half
    of the pictures; ``area``, the object's share of the valid pixels; and ``empty``, whether a map has no positive
    value there.

    Args:
        maps: (map, height, width), signed: of one class in one picture each.
        masks: (map, height, width), whole numbers: the mask of the picture that a map is of, at any size.
        classes: the number in the mask that each map explains.
        void: the number of pixels that do not count; ``None`` for none.
        pictures: which picture each map is of, by number, so that maps of one picture are in one half; by default each
            is of its own.

    Raises:
        RequestError: these are not as many, not of these forms, a map is not finite, or a mask shows no pixel of its
            class.
    """
    import pandas as pd

    scored, truth, wanted = _read(maps, masks, classes)
    numbers = list(range(len(scored))) if pictures is None else [int(number) for number in pictures]
    if len(numbers) != len(scored):
        raise RequestError(f"pictures are {len(numbers)} and maps {len(scored)}: give the picture of each map")
    halves = {number: position % 2 for position, number in enumerate(dict.fromkeys(numbers))}
    rows, curves = [], []
    for position, (one, mask, label) in enumerate(zip(scored, truth, wanted, strict=True)):
        valid = mask != void if void is not None else torch.ones_like(mask, dtype=torch.bool)
        region = ((mask == label) & valid)[None]
        if not region.any():
            raise RequestError(
                f"mask {position} shows no pixel of its class {int(label)} outside void: leave map {position} out"
            )
        sized = at_mask(one[None], mask.shape)
        energy, empty = energies(sized, region, valid)
        area = areas(region, valid)
        curves.append(iou_curves(sized, region, valid))
        rows.append(
            {
                ENERGY: energy.item(),
                ENERGY_RATIO: (energy / area).item(),
                AVERAGE_PRECISION: average_precisions(sized, region, valid).item(),
                "area": area.item(),
                "empty": bool(empty),
            }
        )
    fixed = [_best(curves, [halves[number] == half for number in numbers]) for half in (0, 1)]
    for row, curve, number in zip(rows, curves, numbers, strict=True):
        threshold = fixed[1 - halves[number]]
        row[IOU] = float("nan") if threshold is None else curve[0, threshold].item()
        row["threshold"] = float("nan") if threshold is None else THRESHOLDS[threshold]
    columns = [ENERGY, ENERGY_RATIO, AVERAGE_PRECISION, IOU, "threshold", "area", "empty"]
    return pd.DataFrame(rows, columns=columns)


def _best(curves: Sequence[Tensor], chosen: Sequence[bool]) -> int | None:
    some = [curve for curve, is_chosen in zip(curves, chosen, strict=True) if is_chosen]
    return best_threshold(torch.cat(some)) if some else None


def _read(maps: Array, masks: Array, classes: Array) -> tuple[Tensor, Tensor, Tensor]:
    found, truth, wanted = (torch.as_tensor(given).detach().cpu() for given in (maps, masks, classes))
    if found.dim() != 3 or truth.dim() != 3 or wanted.dim() != 1 or not len(found) == len(truth) == len(wanted):
        raise RequestError(
            "maps and masks must be of shape (map, height, width) and classes of shape (map,), got "
            f"{tuple(found.shape)}, {tuple(truth.shape)}, {tuple(wanted.shape)}: give a mask and a class for each map"
        )
    if truth.is_floating_point() or wanted.is_floating_point():
        raise RequestError("masks and classes must be whole numbers, got floating-point ones: resize masks by nearest")
    if not found.isfinite().all():
        bad = int((~found.isfinite()).flatten(1).any(dim=1).nonzero()[0])
        raise RequestError(f"maps must be finite, got NaN or infinity in map {bad}: leave such maps out")
    return found, truth, wanted
