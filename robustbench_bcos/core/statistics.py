"""Statistics of counts, of paired counts, and of repeated trainings. Pure functions: no tensor, no model.

scipy.stats and statsmodels take a second to import, and are imported where they are used: what every run needs is
made of functions of scipy.special.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

FLIPS = 9999
"""Draws of signs."""

RARE = 10
"""Draws as extreme as what was observed, below which their number says little."""

DRAWN = 500
"""Draws at a time, of values or of signs: all of them may not fit into memory."""


class Interval(NamedTuple):
    """Bounds of a fraction, or of a mean."""

    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Mean and spread of several values, such as the trainings of one recipe."""

    count: int
    mean: float
    deviation: float
    """Sample standard deviation, n - 1 below the line; NaN for a single value."""
    interval: Interval
    """95 % t interval of the mean; NaN for a single value."""


def wilson(correct: int, total: int, confidence: float = 0.95) -> Interval:
    """Score interval of a binomial proportion (Wilson, 1927, JASA 22).

    It covers sampling of the images only: an attack gives an upper bound on robustness, and no interval repairs that.

    Raises:
        ValueError: not 0 <= correct <= total, or total is 0.
    """
    from scipy.special import ndtri

    _check_counts(correct, total)
    square = float(ndtri((1 + confidence) / 2)) ** 2 / total
    share = correct / total
    centre = (share + square / 2) / (1 + square)
    half = math.sqrt(square * (share * (1 - share) + square / 4)) / (1 + square)
    # Without a success, or a failure, one bound is 0, or 1, exactly; the formula rounds.
    return Interval(centre - half if correct else 0.0, centre + half if correct < total else 1.0)


def clopper_pearson(correct: int, total: int, confidence: float = 0.95) -> Interval:
    """Exact interval of a binomial proportion (Clopper & Pearson, 1934, Biometrika 26), never too narrow.

    Raises:
        ValueError: not 0 <= correct <= total, or total is 0.
    """
    from scipy.special import betaincinv

    _check_counts(correct, total)
    tail, wrong = (1 - confidence) / 2, total - correct
    low = betaincinv(correct, wrong + 1, tail) if correct else 0
    high = betaincinv(correct + 1, wrong, 1 - tail) if wrong else 1
    return Interval(float(low), float(high))


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided p of the exact McNemar test (1947, Psychometrika 12): are the two equally often right alone?

    Args:
        only_first: images that only the first got right.
        only_second: images that only the second got right.
    """
    return _sign_test(only_first, only_second, two_sided=True)


def mcnemar_worse(lost: int, won: int) -> float:
    """One-sided p of the same test, against the alternative that images were lost."""
    return _sign_test(lost, won, two_sided=False)


def binomial_greater(correct: int, total: int, chance: float) -> float:
    """One-sided p of the exact binomial test that successes are more than chance gives."""
    from scipy.special import bdtrc

    return float(bdtrc(correct - 1, total, chance))


def fisher_worse(correct: int, total: int, correct_before: int, total_before: int) -> float:
    """One-sided p of Fisher's exact test that a proportion has become smaller, for counts that cannot be paired."""
    from scipy import stats

    table = [[correct, total - correct], [correct_before, total_before - correct_before]]
    return float(stats.fisher_exact(table, alternative="less").pvalue)


def fisher(correct: int, total: int, other: int, other_total: int) -> float:
    """Two-sided p of Fisher's exact test that two proportions are equal, for counts that cannot be paired."""
    from scipy import stats

    return float(stats.fisher_exact([[correct, total - correct], [other, other_total - other]]).pvalue)


def newcombe(correct: int, total: int, other: int, other_total: int, confidence: float = 0.95) -> Interval:
    """Interval of correct / total - other / other_total from both Wilson intervals (Newcombe, 1998, Stat. Med. 17)."""
    from statsmodels.stats.proportion import confint_proportions_2indep

    low, high = confint_proportions_2indep(
        correct, total, other, other_total, method="newcomb", alpha=1 - confidence, compare="diff"
    )
    return Interval(float(low), float(high))


def paired_bootstrap(
    first: Sequence[float], second: Sequence[float], *, seed: int, confidence: float = 0.95, draws: int = 9999
) -> Interval:
    """Percentile interval of the mean of second - first, images drawn with replacement (Efron, 1979).

    Raises:
        ValueError: the two are not of one length, or are empty.
    """
    if len(first) != len(second) or not first:
        raise ValueError(f"expected as many values in both, got {len(first)} and {len(second)}")
    return bootstrap(np.subtract(second, first).tolist(), seed=seed, confidence=confidence, draws=draws)


def bootstrap(values: Sequence[float], *, seed: int, confidence: float = 0.95, draws: int = 9999) -> Interval:
    """Percentile interval of the mean, values drawn with replacement (Efron, 1979).

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("expected at least one value")
    if len(set(values)) == 1:
        return Interval(values[0], values[0])
    tail = (1 - confidence) / 2
    low, high = np.quantile(_drawn_means(values, np.random.default_rng(seed), draws), [tail, 1 - tail])
    return Interval(float(low), float(high))


def _drawn_means(values: Sequence[float], generator: np.random.Generator, draws: int) -> np.ndarray:
    different, counts = np.unique(values, return_counts=True)
    if len(different) < len(values) / 2:
        # A draw's mean depends on how often it holds each value alone: neither memory nor time grow with the images,
        # where drawing them one by one takes half a second for each row of 10,000.
        shares = generator.multinomial(len(values), counts / len(values), size=draws)
        return shares @ different / len(values)
    parts = [min(DRAWN, draws - start) for start in range(0, draws, DRAWN)]
    array = np.asarray(values)
    return np.concatenate(
        [array[generator.integers(len(array), size=(part, len(array)))].mean(axis=1) for part in parts]
    )


def sign_flip(differences: Sequence[float], *, seed: int) -> float:
    """Two-sided p that the mean of paired differences is 0: their signs are drawn at random (Fisher, 1935).

    Where fewer than ten draws are as extreme, so that their number says little, p is that of the normal distribution of
    the same variance, but no less than all signs together allow: a correction for many comparisons needs small p.

    Raises:
        ValueError: there are no differences.
    """
    if not differences:
        raise ValueError("expected at least one difference")
    values = np.abs(differences)
    observed = abs(float(np.sum(differences)))
    generator, extreme = np.random.default_rng(seed), 0
    for start in range(0, FLIPS, DRAWN):
        signs = 2 * generator.integers(2, size=(min(DRAWN, FLIPS - start), len(values)), dtype=np.int8) - 1
        extreme += int((np.abs(signs @ values) >= observed * (1 - 1e-12)).sum())
    if extreme >= RARE:
        return (1 + extreme) / (1 + FLIPS)
    tail = math.erfc(observed / float(np.linalg.norm(values)) / math.sqrt(2))
    return min((1 + extreme) / (1 + FLIPS), max(tail, 2.0 ** (1 - len(values))))


def self_normalised(differences: Sequence[float]) -> float:
    """One-sided p that the sum of paired differences is not positive: normal tail of the sum over its own size.

    The size is the root of the summed squares (Efron, 1969, JASA 64), so that n differences that agree in sign alone
    say no more than the few large ones among them do, where :func:`sign_flip` would have p 2^-n.

    Raises:
        ValueError: there are no differences.
    """
    if not differences:
        raise ValueError("expected at least one difference")
    size = float(np.linalg.norm(differences))
    return math.erfc(float(np.sum(differences)) / size / math.sqrt(2)) / 2 if size > 0 else 0.5


def holm(ps: Sequence[float]) -> list[float]:
    """P values corrected for their number, step by step (Holm, 1979, Scand. J. Stat. 6); what is NaN is no test."""
    corrected = np.array(ps, dtype=float)
    # Without what is NaN, which sorts behind everything else.
    ascending = corrected.argsort()[: np.count_nonzero(~np.isnan(corrected))]
    # Not statsmodels, which has Python collect its garbage each time: a tenth of a second where torch is loaded.
    steps = corrected[ascending] * np.arange(len(ascending), 0, -1)
    corrected[ascending] = np.maximum.accumulate(steps).clip(max=1)
    return [float(p) for p in corrected]


def welch(first: Sequence[float], second: Sequence[float]) -> float:
    """Two-sided p of Welch's t-test (1947, Biometrika 34) for means of unequal variance; NaN below two values each."""
    if min(len(first), len(second)) < 2:
        return math.nan
    if np.ptp(first) == 0 and np.ptp(second) == 0:
        # Nothing varies: the statistic is 0/0 or infinite, and scipy warns of both.
        return 1.0 if first[0] == second[0] else 0.0
    from scipy import stats

    # From its moments: given values, scipy warns where one of the two does not vary.
    moments = [(np.mean(values), np.std(values, ddof=1), len(values)) for values in (first, second)]
    return float(stats.ttest_ind_from_stats(*moments[0], *moments[1], equal_var=False).pvalue)


def welch_interval(first: Sequence[float], second: Sequence[float], confidence: float = 0.95) -> Interval:
    """Interval of mean(first) - mean(second) that goes with Welch's t-test; NaN below two values each."""
    if min(len(first), len(second)) < 2:
        return Interval(math.nan, math.nan)
    if np.ptp(first) == 0 and np.ptp(second) == 0:
        difference = float(np.mean(first) - np.mean(second))
        return Interval(difference, difference)
    from scipy import stats

    with warnings.catch_warnings():
        # SciPy warns where one of the two does not vary, which is meant.
        warnings.filterwarnings("ignore", "Precision loss", RuntimeWarning)
        low, high = stats.ttest_ind(first, second, equal_var=False).confidence_interval(confidence)
    return Interval(float(low), float(high))


def summarise(values: Sequence[float], confidence: float = 0.95) -> Summary:
    """Mean, deviation and t interval of values: of trainings, or of images.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("expected at least one value")
    mean = float(np.mean(values))
    if len(values) == 1:
        return Summary(count=1, mean=mean, deviation=math.nan, interval=Interval(math.nan, math.nan))
    from scipy.special import stdtrit

    deviation = float(np.std(values, ddof=1))
    half = float(stdtrit(len(values) - 1, (1 + confidence) / 2)) * deviation / math.sqrt(len(values))
    return Summary(count=len(values), mean=mean, deviation=deviation, interval=Interval(mean - half, mean + half))


def _check_counts(correct: int, total: int) -> None:
    if not 0 <= correct <= total or total == 0:
        raise ValueError(f"expected 0 <= correct <= total and total > 0, got {correct} of {total}")


def _sign_test(first: int, second: int, *, two_sided: bool) -> float:
    """P of the exact binomial test that both are equally likely, against more of the first where it has one side."""
    from scipy.special import bdtr, bdtrc

    if two_sided:
        return min(1.0, 2 * float(bdtr(min(first, second), first + second, 0.5)))
    return float(bdtrc(first - 1, first + second, 0.5))
