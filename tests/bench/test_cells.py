"""Cells: every combination once, each told apart by its key, and radii that fit into the pixel box."""

import itertools
import json
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from robustbench_bcos.attacks.ensemble import Ensemble, standard
from torch import Tensor, nn

from robustbench_bcos.attacks import NORMS
from robustbench_bcos.attacks.attack import Attack
from robustbench_bcos.attacks.searches.square import Square
from robustbench_bcos.bench.cells import Cell, check_radius, make_cells
from robustbench_bcos.bench.config import CHOICES, make_config
from robustbench_bcos.bench.target import build_attack
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.quantities import Quantity

FULL: dict[str, Any] = {
    "norm": ("linf", "l2"),
    "eps": ("8/255", "0.25", "2"),
    "steps": (100, 20),
    "loss": ("margin", "auto"),
    "restarts": (1, 5, 2, 3, 4),
}

radii = st.sampled_from(["0.5", "1/2", "8/255", "0"]).map(Quantity.of)
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
    select=st.sampled_from(CHOICES["count"]),
    space=st.sampled_from(CHOICES["space"]),
    queries=st.integers(0, 300),
    targets=st.integers(0, 30),
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
    assert [cell.threat.text for cell in made] == ["0.5", "0.25"]


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


EVERY: dict[str, Any] = {"attack": CHOICES["attack"], "loss": ("ce", "margin"), "queries": 7, "targets": 3}


def test_every_attack_has_what_is_its_own_and_nothing_else() -> None:
    made = cells(**EVERY, steps=(20, 50), restarts=(1, 2), step_size="0.1", start="random", select="last")
    found: dict[str, list[tuple[Any, ...]]] = {}
    for c in made:
        said = (c.steps, str(c.step_size), c.loss, c.restarts, c.start, c.count, c.queries, c.targets)
        found.setdefault(c.attack, []).append(said)
    grid = list(itertools.product((20, 50), ("ce", "margin"), (1, 2)))
    assert found == {
        "pgd": [(steps, "0.1", loss, restarts, "random", "last", 0, 0) for steps, loss, restarts in grid],
        "apgd": [(steps, "None", loss, restarts, "random", "last", 0, 0) for steps, loss, restarts in grid],
        "square": [(0, "None", "", restarts, "random", "any", 7, 0) for restarts in (1, 2)],
        "fab": [(steps, "None", "", 1, "image", "any", 0, 3) for steps in (20, 50)],
        "autoattack": [(100, "None", "", 1, "random", "any", 5000, 9)],
        "noise": [(0, "None", "", restarts, "random", "any", 0, 0) for restarts in (1, 2)],
    }
    assert len({cell.key for cell in made}) == len(made)


def test_a_published_standard_has_no_settings() -> None:
    plain = cells(attack=("autoattack",))
    settings: dict[str, Any] = {"steps": (3, 4), "restarts": (2, 5), "queries": 9, "targets": 2, "step_size": "0.1"}
    assert cells(attack=("autoattack",), loss=("ce", "bce"), start="random", select="last", **settings) == plain
    assert len(plain) == 1


def test_only_a_loss_that_aims_has_targets() -> None:
    aiming, plain = cells(attack=("apgd",), loss=("targeted_dlr",), targets=4)[0], cells(attack=("apgd",), targets=4)[0]
    assert (aiming.targets, aiming.loss, plain.targets) == (4, "targeted_dlr", 0)


def test_numbers_that_a_cell_does_not_have_are_not_in_its_key() -> None:
    by_attack = {cell.attack: cell.key for cell in cells(**EVERY)}
    assert by_attack["square"].endswith(" queries7")
    assert by_attack["fab"].endswith(" targets3")
    assert by_attack["autoattack"].endswith(" queries5000 targets9")
    assert not {"queries", "targets"} & set(by_attack["pgd"].rstrip("0123456789").split())


class Fortress(nn.Module):
    """A network that nothing fools, which counts what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.shown = 0

    def forward(self, images: Tensor) -> Tensor:
        self.shown += len(images)
        logits = 1e-3 * images.flatten(1)[:, :10]
        return logits + 1000 * F.one_hot(torch.zeros(len(images), dtype=torch.long), 10)


@pytest.mark.parametrize(
    "flags",
    [
        {"attack": ("pgd",), "restarts": (3,)},
        {"attack": ("apgd",), "restarts": (2,)},
        {"attack": ("apgd",), "restarts": (2,), "loss": ("targeted_dlr",), "targets": 3},
        {"attack": ("apgd",), "loss": ("targeted_dlr",), "targets": 9},
        {"attack": ("square",), "queries": 7, "restarts": (3,)},
        {"attack": ("fab",), "targets": 4},
        {"attack": ("noise",), "restarts": (5,)},
        {"attack": ("autoattack",)},
    ],
    ids=lambda flags: " ".join(map(str, flags.values())),
)
def test_passes_of_an_image_that_withstands_everything_are_no_more_than_was_said(flags: dict[str, Any]) -> None:
    if {"fab", "autoattack"} & set(flags["attack"]):
        pytest.importorskip("torchattacks")
    (cell,) = cells(steps=(6,), **flags)
    if cell.attack == "autoattack":
        # Its queries alone would take a minute.
        members = standard().members
        attack: Attack = Ensemble((*members[:-1], Square(queries=7)))
        cell = replace(cell, queries=7)
    else:
        attack = build_attack(cell, "ce" if cell.attack.loss == "auto" else cell.attack.loss)
    network = Fortress()
    images = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(1))
    trace = attack(network, images, torch.zeros(2, dtype=torch.long), NORMS["l2"], 0.1).trace
    spent = trace.forward_passes + trace.backward_passes
    assert trace.forward_passes.sum() == network.shown
    assert (spent <= cell.passes).all()
    # And not many more than are needed.
    assert (spent >= 0.9 * cell.passes).all()


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


@pytest.mark.parametrize("norm", NORMS)
def test_a_ball_may_be_as_large_as_the_pixel_box_and_no_larger(norm: str) -> None:
    diameter = NORMS[norm].diameter((3, 8, 5))
    check_radius(Quantity.of(repr(diameter)), norm, diameter)
    with pytest.raises(RequestError, match="larger than the whole pixel range"):
        check_radius(Quantity.of(repr(diameter * 1.001)), norm, diameter)


@pytest.mark.parametrize(("eps", "meant"), [("8", "8/255"), ("8.0", "8/255"), ("256", None), ("1.5", None)])
def test_a_linf_radius_in_units_of_255_is_recognised(eps: str, meant: str | None) -> None:
    with pytest.raises(RequestError, match=f"eps {eps} for norm linf") as caught:
        check_radius(Quantity.of(eps), "linf", 1.0)
    said = str(caught.value)
    if meant is None:
        assert "did you mean" not in said
    else:
        assert f"did you mean {meant}?" in said
        assert Quantity.of(meant).value <= 1


def test_an_l2_radius_is_not_taken_for_one_in_units_of_255() -> None:
    with pytest.raises(RequestError, match="eps 14 for norm l2") as caught:
        check_radius(Quantity.of("14"), "l2", 13.86)
    assert "did you mean" not in str(caught.value)
