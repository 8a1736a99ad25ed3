"""Epsilons as people write them."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robustbench_bcos.bench.configured import make_config
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.quantities import Quantity


@pytest.mark.parametrize(
    ("written", "text", "value"),
    [
        ("8/255", "8/255", 8 / 255),
        ("0.5", "0.5", 0.5),
        (" 1e-3 ", "1e-3", 0.001),
        ("2", "2", 2.0),
        ("0", "0", 0.0),
        ("0/255", "0/255", 0.0),
        ("16/8\n", "16/8", 2.0),
    ],
)
def test_a_radius_keeps_its_text_beside_its_value(written: str, text: str, value: float) -> None:
    radius = Quantity.of(written)
    assert (radius.text, radius.value) == (text, value)
    assert str(radius) == text


@pytest.mark.parametrize(
    "written", [np.float32(0.1), np.float16(0.1), np.float64(0.1), np.array(0.1, "f4"), torch.tensor(0.1)], ids=repr
)
def test_a_scalar_of_lower_precision_is_what_its_user_wrote(written: Any) -> None:
    assert Quantity.of(written) == Quantity("0.1", 0.1)
    for several in (written, [written], written.reshape(1)):
        assert [str(eps) for eps in make_config({"eps": several}).eps] == ["0.1"]


@given(pixels=st.integers(0, 10**6), levels=st.integers(1, 10**6))
def test_a_fraction_is_the_nearest_float_to_the_quotient(pixels: int, levels: int) -> None:
    # Python divides integers with correct rounding.
    assert Quantity.of(f"{pixels}/{levels}").value == pixels / levels


@given(value=st.floats(min_value=0, allow_infinity=False))
def test_a_decimal_is_read_to_the_last_bit(value: float) -> None:
    assert Quantity.of(repr(value)).value == value


@pytest.mark.parametrize(
    "written",
    ["8/0", "0/0", "abc", "1/2/3", "", " ", "/", "8/", "/255", "0.5/2", "8/-255", "1,5", "5 %", "1" + 400 * "0" + "/1"],
)
def test_what_is_no_number_is_refused_with_an_example(written: str) -> None:
    with pytest.raises(RequestError, match=r"^step_size .* is not a number: write .* 8/255$"):
        Quantity.of(written, name="step_size")


@pytest.mark.parametrize("written", ["nan", "inf", "-inf", "1e400", "-1", "-8/255", "-1e-300"])
def test_what_is_no_radius_is_refused(written: str) -> None:
    with pytest.raises(RequestError, match=f"^eps '{written}' must be finite and not negative"):
        Quantity.of(written)
