"""How a map scores against a mask: where its evidence is, and how well it tells the pixels of an object from others.

Void pixels are in neither numerator nor denominator. A map is brought to the size of its mask (bilinear), and never the
other way round. Its sign is kept: negative evidence is evidence against the class, and not for the place where it is.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from robustbench_bcos.core.deferred import torch
from robustbench_bcos.core.rng import generator
from robustbench_bcos.core.types import Float, Tensor
from robustbench_bcos.localisation.game import TargetMaps
from robustbench_bcos.localisation.scene import Area, PerTarget, Regions

ENERGY: Final = "energy"
"""Share of the positive evidence that is on the object (energy pointing game, Wang et al., 2020, Score-CAM)."""

ENERGY_RATIO: Final = "energy_ratio"
"""That share over the object's share of the area: 1 for evidence that is spread evenly."""

AVERAGE_PRECISION: Final = "average_precision"
"""Of the pixels of the object among all, ranked by their signed evidence; 1 for a perfect order."""

IOU: Final = "iou"
"""Intersection over union of the object with the pixels above a threshold that other pictures fixed."""

MEASURES: Final = (ENERGY, ENERGY_RATIO, AVERAGE_PRECISION, IOU)

THRESHOLDS: Final = tuple(step / 20 for step in range(1, 20))
"""Shares of a map's largest value among which one is chosen."""

SPREAD: Final = 0.25
"""Standard deviation of the centre control, as a share of each side."""

Curves = Float[Tensor, "target threshold"]


def areas(regions: Regions, valid: Area) -> PerTarget:
    """The share of the valid pixels that each object has: what evidence without a place scores. NaN without any."""
    return (regions & valid).flatten(1).sum(dim=1).double() / valid.sum()


def average_precisions(maps: TargetMaps, regions: Regions, valid: Area) -> PerTarget:
    """scikit-learn's average precision over all thresholds; NaN for an object without a valid pixel."""
    # scikit-learn takes a second to import.
    from sklearn.metrics import average_precision_score

    ranked, truth = maps[:, valid].numpy(), regions[:, valid].numpy()
    pairs = zip(truth, ranked, strict=True)
    return torch.tensor(
        [average_precision_score(*pair) if pair[0].any() else np.nan for pair in pairs], dtype=torch.float64
    )


def iou_curves(maps: TargetMaps, regions: Regions, valid: Area) -> Curves:
    """Intersection over union at each of ``THRESHOLDS``; NaN for empty maps."""
    inside, shown = regions[:, valid], maps[:, valid]
    largest = shown.amax(dim=1, keepdim=True) if shown.shape[1] else shown.new_zeros(len(maps), 1)
    columns = []
    for threshold in THRESHOLDS:
        above = shown >= threshold * largest
        columns.append((above & inside).sum(dim=1).double() / (above | inside).sum(dim=1))
    return torch.stack(columns, dim=1).masked_fill(largest <= 0, torch.nan)


def best_threshold(curves: Curves) -> int | None:
    """Position of the threshold of largest mean intersection over union, the lower of two; ``None`` without any."""
    counted = curves[~curves.isnan().any(dim=1)]
    return int(counted.mean(dim=0).argmax()) if len(counted) else None


def random_maps(targets: int, size: Sequence[int], *key: int) -> TargetMaps:
    """The control without information: positive evidence that is drawn uniformly for each pixel, by seed and image."""
    return torch.rand((targets, *size), generator=generator(*key, "random map"), dtype=torch.float64)


def centre_maps(targets: int, size: Sequence[int]) -> TargetMaps:
    """The control that points at the middle of every picture, where photographers put what they mean: a Gaussian."""
    rows, columns = (((torch.arange(side).double() + 0.5) / side - 0.5) / SPREAD for side in size)
    bump = torch.exp(-(rows[:, None].square() + columns[None].square()) / 2)
    return bump.expand(targets, -1, -1).clone()
