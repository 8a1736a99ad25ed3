"""Numbers as they are recorded: so many significant digits, and nothing where there is no number."""

import math
from decimal import Context, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustbench_bcos.core.rounding import significant

finite = st.floats(allow_nan=False, allow_infinity=False)
digits = st.integers(1, 15)


@pytest.mark.parametrize(
    ("value", "rounded"),
    [
        (0.0, 0.0),
        (-0.0, 0.0),
        (0.1234567, 0.123457),
        (-1234567.0, -1234570.0),
        (1e-300 / 3, 3.33333e-301),
        (999999.5, 1e6),
        (8 / 255, 0.0313725),
    ],
)
def test_six_digits_are_kept(value: float, rounded: float) -> None:
    assert significant(value) == rounded


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_nothing(value: float) -> None:
    assert significant(value) is None


@given(finite, digits)
def test_the_result_is_the_decimal_number_rounded_and_rounding_it_again_changes_nothing(
    value: float, count: int
) -> None:
    rounded = significant(value, count)
    assert rounded == float(Context(prec=count).create_decimal(Decimal(value)))
    if rounded is not None and math.isfinite(rounded):
        assert significant(rounded, count) == rounded


@given(finite.filter(lambda value: abs(value) > 1e-300), digits)
def test_the_error_is_half_a_unit_of_the_last_digit_at_most(value: float, count: int) -> None:
    rounded = significant(value, count)
    assert rounded is not None
    # The nearest float to the decimal number is off by its own rounding.
    assert abs(rounded - value) <= abs(value) * (5 * 10.0**-count + 2**-52) or math.isinf(rounded)


@given(st.floats(0.001, 1000), st.floats(-1e-9, 1e-9))
def test_float_noise_is_rarely_seen(value: float, noise: float) -> None:
    one, other = significant(value), significant(value * (1 + noise))
    assert one is not None
    # The same, or, on the border between two decimal numbers, the next one.
    assert other == pytest.approx(one, rel=1.01e-5)
