"""Attack losses of one image in NumPy float64, with their derivatives by the logits written out by hand."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_expit, logsumexp, softmax

Vector = NDArray[np.float64]


def bce(logits: Vector, label: int) -> float:
    """Mean over classes of -log p for the label and -log(1 - p) for the others, p the logistic function."""
    total = 0.0
    for index, logit in enumerate(logits):
        total -= float(log_expit(logit if index == label else -logit))
    return total / len(logits)


def bce_slope(logits: Vector, label: int) -> Vector:
    slope = np.zeros_like(logits)
    for index, logit in enumerate(logits):
        # p - 1 as -(1 - p): the difference itself would round to 0 from a logit of 37.
        slope[index] = (-expit(-logit) if index == label else expit(logit)) / len(logits)
    return slope


def ce(logits: Vector, label: int) -> float:
    """-log of the label's softmax probability."""
    return float(logsumexp(logits) - logits[label])


def ce_slope(logits: Vector, label: int) -> Vector:
    slope: Vector = softmax(logits)
    slope[label] = -sum(slope[index] for index in range(len(logits)) if index != label)
    return slope


def margin(logits: Vector, label: int) -> float:
    """Best wrong logit minus the label's."""
    return float(logits[_best_wrong(logits, label)] - logits[label])


def margin_slope(logits: Vector, label: int) -> Vector:
    slope = np.zeros_like(logits)
    slope[_best_wrong(logits, label)] = 1.0
    slope[label] = -1.0
    return slope


def dlr(logits: Vector, label: int) -> float:
    """Croce & Hein (2020), eq. 6, for three classes and more; their code adds 1e-12 to the denominator."""
    first, _, third = np.argsort(-logits)[:3]
    return float((logits[_best_wrong(logits, label)] - logits[label]) / (logits[first] - logits[third] + 1e-12))


def dlr_slope(logits: Vector, label: int) -> Vector:
    first, _, third = np.argsort(-logits)[:3]
    gap = logits[first] - logits[third] + 1e-12
    gap_slope = np.zeros_like(logits)
    gap_slope[first] = 1.0
    gap_slope[third] = -1.0
    slope: Vector = margin_slope(logits, label) / gap - margin(logits, label) / gap**2 * gap_slope
    return slope


def targeted_dlr(logits: Vector, label: int, target: int) -> float:
    """Croce & Hein (2020), eq. 7; with three classes there is no fourth logit."""
    ordered = sorted(logits, reverse=True)
    lower = ordered[2] if len(ordered) == 3 else (ordered[2] + ordered[3]) / 2
    return float(-(logits[label] - logits[target]) / (ordered[0] - lower + 1e-12))


def _best_wrong(logits: Vector, label: int) -> int:
    best = -1
    for index, logit in enumerate(logits):
        if index != label and (best < 0 or logit > logits[best]):
            best = index
    return best


VALUES: dict[str, Callable[[Vector, int], float]] = {"bce": bce, "ce": ce, "dlr": dlr, "margin": margin}
SLOPES: dict[str, Callable[[Vector, int], Vector]] = {
    "bce": bce_slope,
    "ce": ce_slope,
    "dlr": dlr_slope,
    "margin": margin_slope,
}
