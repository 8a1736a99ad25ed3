"""Intervals for counts. Pure functions of integers: no tensor, no model."""

from typing import NamedTuple

from statsmodels.stats.proportion import proportion_confint


class Interval(NamedTuple):
    """Bounds of a fraction, both in [0, 1]."""

    low: float
    high: float


def wilson(correct: int, total: int, confidence: float = 0.95) -> Interval:
    """Score interval of a binomial proportion (Wilson, 1927, JASA 22).

    It covers sampling of the images only: an attack gives an upper bound on robustness, and no interval repairs that.

    Raises:
        ValueError: not 0 <= correct <= total, or total is 0.
    """
    if not 0 <= correct <= total or total == 0:
        raise ValueError(f"expected 0 <= correct <= total and total > 0, got {correct} of {total}")
    low, high = proportion_confint(correct, total, alpha=1 - confidence, method="wilson")
    # Without a success, or a failure, one bound is 0, or 1, exactly; the formula rounds.
    return Interval(float(low) if correct else 0.0, float(high) if correct < total else 1.0)
