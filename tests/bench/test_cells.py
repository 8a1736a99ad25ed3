"""Cells: every combination once, each told apart by its key, and radii that fit into the pixel box."""

import itertools
import json
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustbench_bcos.attacks.balls import BALLS
from robustbench_bcos.bench.cells import Cell, check_radius, make_cells
from robustbench_bcos.bench.config import CHOICES, make_config
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.radius import Radius

FULL: dict[str, Any] = {
    "norm": ("linf", "l2"),
    "eps": ("8/255", "0.25", "2"),
    "steps": (100, 20),
    "loss": ("margin", "auto"),
    "restarts": (1, 5, 2, 3, 4),
}

radii = st.sampled_from(["0.5", "1/2", "8/255", "0"]).map(Radius.parse)
any_cell = st.builds(
    Cell,
    model=st.sampled_from(["a", "b-c", "m:n"]),
    attack=st.sampled_from(CHOICES["attack"]),
    norm=st.sampled_from(CHOICES["norm"]),
    radius=radii,
    steps=st.integers(0, 30),
    step_size=st.none() | radii,
    loss=st.sampled_from(["", *CHOICES["loss"]]),
    restarts=st.integers(1, 30),
    start=st.sampled_from(CHOICES["start"]),
    count=st.sampled_from(CHOICES["count"]),
    space=st.sampled_from(CHOICES["space"]),
)


def cells(models: tuple[str, ...] = ("net",), **flags: Any) -> list[Cell]:
    return make_cells(make_config(flags), models)


def test_every_combination_is_a_cell_model_by_model_in_the_order_of_the_request() -> None:
    made = cells(("b", "a"), **FULL)
    points = [(c.model, c.norm, c.radius.text, c.steps, c.loss, c.restarts) for c in made]
    assert points == list(itertools.product(("b", "a"), *FULL.values()))
    assert len({cell.key for cell in made}) == len(made) == 240


def test_what_is_asked_for_twice_is_measured_once_as_it_was_written_first() -> None:
    made = cells(eps=("0.5", "0.25", "1/2", "0.50"), norm=("l2", "l2"), steps=(20, 20), loss=("ce", "ce"))
    assert [cell.radius.text for cell in made] == ["0.5", "0.25"]


def test_noise_has_no_steps_and_no_loss_and_starts_at_random() -> None:
    made = cells(attack=("noise", "pgd"), steps=(20, 100), loss=("ce", "bce"), step_size="0.1", restarts=(1, 7))
    noise = [cell for cell in made if cell.attack == "noise"]
    assert [(c.steps, c.step_size, c.loss, c.start, c.restarts) for c in noise] == [
        (0, None, "", "random", 1),
        (0, None, "", "random", 7),
    ]
    assert len(made) == 2 + 8
    assert [cell.passes for cell in noise] == [1, 7]


def test_passes_are_those_of_an_image_that_withstands_everything() -> None:
    (cell,) = cells(steps=(20,), restarts=(3,))
    assert cell.passes == 3 * (20 + 21)


@given(any_cell)
def test_a_cell_survives_json(cell: Cell) -> None:
    assert Cell.from_dict(json.loads(json.dumps(cell.as_dict()))) == cell


@given(any_cell, any_cell)
def test_cells_have_the_same_key_only_where_they_are_the_same(one: Cell, other: Cell) -> None:
    assert (one.key == other.key) == (one == other)
    # Two draws differ in nearly everything; these differ in one thing at most.
    for field in fields(Cell):
        near = replace(one, **{field.name: getattr(other, field.name)})
        assert (one.key == near.key) == (one == near)


@pytest.mark.parametrize("norm", BALLS)
def test_a_ball_may_be_as_large_as_the_pixel_box_and_no_larger(norm: str) -> None:
    diameter = BALLS[norm].diameter((3, 8, 5))
    check_radius(Radius.parse(repr(diameter)), norm, diameter)
    with pytest.raises(RequestError, match="larger than the whole pixel range"):
        check_radius(Radius.parse(repr(diameter * 1.001)), norm, diameter)


@pytest.mark.parametrize(("eps", "meant"), [("8", "8/255"), ("8.0", "8/255"), ("256", None), ("1.5", None)])
def test_a_linf_radius_in_units_of_255_is_recognised(eps: str, meant: str | None) -> None:
    with pytest.raises(RequestError, match=f"--eps {eps} for norm linf") as caught:
        check_radius(Radius.parse(eps), "linf", 1.0)
    said = str(caught.value)
    if meant is None:
        assert "did you mean" not in said
    else:
        assert f"did you mean {meant}?" in said
        assert Radius.parse(meant).value <= 1


def test_an_l2_radius_is_not_taken_for_one_in_units_of_255() -> None:
    with pytest.raises(RequestError, match="--eps 14 for norm l2") as caught:
        check_radius(Radius.parse("14"), "l2", 13.86)
    assert "did you mean" not in str(caught.value)
