"""Wilson's interval against its definition and against SciPy."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, norm

from robustbench_bcos.core.statistics import Interval, wilson

COUNTS = [
    (0, 1),
    (1, 1),
    (0, 3),
    (3, 3),
    (0, 7),
    (7, 7),
    (1, 7),
    (6, 7),
    (363, 364),
    (500, 1000),
    (0, 10_000),
    (1, 10_000),
]

# Both sides solve the same quadratic in float64, in different orders.
CLOSE = {"rel": 1e-9, "abs": 1e-12}


def quadratic_roots(correct: int, total: int, confidence: float) -> tuple[float, float]:
    """The p at which |share - p| = z sqrt(p (1 - p) / total), squared and solved."""
    z, share = norm.ppf(0.5 + confidence / 2), correct / total
    a, b, c = 1 + z**2 / total, -(2 * share + z**2 / total), share**2
    root = math.sqrt(max(0.0, b**2 - 4 * a * c))
    return (-b - root) / (2 * a), (-b + root) / (2 * a)


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
@pytest.mark.parametrize(("correct", "total"), COUNTS)
def test_the_bounds_are_the_roots_of_the_score_equation(correct: int, total: int, confidence: float) -> None:
    assert wilson(correct, total, confidence) == pytest.approx(quadratic_roots(correct, total, confidence), **CLOSE)


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
@pytest.mark.parametrize(("correct", "total"), COUNTS)
def test_the_bounds_are_those_of_scipy(correct: int, total: int, confidence: float) -> None:
    expected = binomtest(correct, total).proportion_ci(confidence, method="wilson")
    assert wilson(correct, total, confidence) == pytest.approx((expected.low, expected.high), **CLOSE)


def test_the_confidence_is_95_percent_unless_told() -> None:
    assert wilson(3, 11) == wilson(3, 11, 0.95)


@given(total=st.integers(1, 20_000), data=st.data())
@settings(deadline=None)
def test_the_interval_holds_the_fraction_and_stays_in_the_unit_interval(total: int, data: st.DataObject) -> None:
    correct = data.draw(st.integers(0, total))
    low, high = wilson(correct, total)
    assert 0 <= low <= correct / total <= high <= 1
    assert low < high


@pytest.mark.parametrize("total", np.unique(np.geomspace(1, 20_000, 60).astype(int)).tolist())
def test_none_and_all_have_an_exact_end(total: int) -> None:
    assert wilson(0, total).low == 0
    assert wilson(total, total).high == 1
    assert isinstance(wilson(0, total), Interval)


@pytest.mark.parametrize(("correct", "total"), [(0, 0), (1, 0), (-1, 5), (6, 5), (-2, -1)])
def test_counts_that_are_none_are_refused(correct: int, total: int) -> None:
    with pytest.raises(ValueError, match=f"got {correct} of {total}"):
        wilson(correct, total)
