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
from torch import Tensor, nn

from robustbench_bcos.attacks import ATTACKS, LOSSES, NORMS
from robustbench_bcos.attacks.attack import AbstractAttack
from robustbench_bcos.attacks.searches.apgd import APGD
from robustbench_bcos.attacks.searches.autoattack import AutoAttack, Ensemble
from robustbench_bcos.attacks.searches.noise import Noise
from robustbench_bcos.attacks.searches.pgd import PGD
from robustbench_bcos.attacks.searches.square import Square
from robustbench_bcos.attacks.threat import Threat
from robustbench_bcos.bench.cells import Cell, make_cells
from robustbench_bcos.bench.configured import make_config
from robustbench_bcos.core.errors import RequestError

FULL: dict[str, Any] = {
    "norm": ("linf", "l2"),
    "eps": ("8/255", "0.25", "2"),
    "steps": (100, 20),
    "loss": ("margin", "auto"),
    "restarts": (1, 5, 2, 3, 4),
}

counts = st.integers(1, 30)
losses = st.sampled_from(["auto", *LOSSES])
selects = st.sampled_from(["first_success", "last", "best_loss"])
step_sizes = st.none() | st.sampled_from(["0.5", "1/2", "8/255", 0.25])
any_attack = st.one_of(
    st.builds(
        PGD,
        steps=counts,
        restarts=counts,
        loss=losses,
        select=selects,
        step_size=step_sizes,
        start=st.sampled_from(["image", "random"]),
    ),
    st.builds(APGD, steps=counts, restarts=counts, loss=losses, select=selects),
    st.builds(Square, queries=counts, restarts=counts, p_init=st.sampled_from([0.3, 0.8])),
    st.builds(Noise, restarts=counts),
    st.builds(AutoAttack, fab=st.booleans()),
)
# Made here: beartype checks a random item of a sequence, and strategies must leave the global generator alone.
threats = [Threat.of(norm, eps) for norm in NORMS for eps in ("0.5", "1/2", "8/255", "0")]
any_cell = st.builds(
    Cell,
    model=st.sampled_from(["a", "b-c", "m:n"]),
    threat=st.sampled_from(threats),
    attack=any_attack,
    criterion=st.sampled_from(["misclassified", "targeted:3", "targeted:least_likely"]),
    space=st.sampled_from(["image", "encoded"]),
)


def cells(models: tuple[str, ...] = ("net",), **flags: Any) -> list[Cell]:
    return make_cells(make_config(flags), models)


def attacks(**flags: Any) -> list[AbstractAttack]:
    return [cell.attack for cell in cells(**flags)]


# Every combination


def test_every_combination_is_a_cell_model_by_model_in_the_order_of_the_request() -> None:
    made = cells(("b", "a"), **FULL)
    points = [
        (cell.model, cell.threat.norm, cell.threat.text, *(cell.attack.options[name] for name in list(FULL)[2:]))
        for cell in made
    ]
    assert points == list(itertools.product(("b", "a"), *FULL.values()))
    assert len({cell.key for cell in made}) == len(made) == 240


def test_what_is_asked_for_twice_is_measured_once_as_it_was_written_first() -> None:
    made = cells(eps=("0.5", "0.25", "1/2", "0.50"), norm=("l2", "l2"), steps=(20, 20), loss=("ce", "ce"))
    assert [cell.threat.text for cell in made] == ["0.5", "0.25"]


def test_cells_of_several_attacks_are_together_by_attack() -> None:
    made = cells(attack=("noise", "pgd"), eps=("0.5", "1"), steps=(3, 2))
    assert [(cell.attack, cell.threat.text) for cell in made] == [
        (Noise(), "0.5"),
        (Noise(), "1"),
        *((PGD(steps=steps, loss="auto"), eps) for eps in ("0.5", "1") for steps in (3, 2)),
    ]


def test_every_attack_has_the_options_of_its_own_and_no_other() -> None:
    asked: dict[str, Any] = {"loss": ("ce", "margin"), "steps": (20, 50), "restarts": (1, 2), "queries": 7}
    asked |= {"targets": 3, "step_size": "0.1", "start": "random", "select": "last"}
    made = attacks(attack=tuple(ATTACKS), **asked)
    assert len(set(made)) == len(made)
    for name in ATTACKS:
        own = [field.name for field in fields(ATTACKS[name])]
        several = [value for option, value in asked.items() if option in own and isinstance(value, tuple)]
        of_kind = [attack for attack in made if attack.name == name]
        assert len(of_kind) == len(list(itertools.product(*several)))
        for attack in of_kind:
            for option, value in asked.items():
                if option in own:
                    found = attack.options[option]
                    assert found in value if isinstance(value, tuple) else str(found) == str(value)


def test_options_without_a_parameter_of_their_own_reach_the_attacks_that_have_them() -> None:
    square, pgd = attacks(attack=("square", "pgd"), option={"p_init": 0.3})
    assert square == Square(p_init=0.3)
    assert pgd == PGD(loss="auto")
    with pytest.raises(RequestError, match=r"^option 'pinit' is not one of square: choose from p_init, queries, "):
        attacks(attack=("square",), option={"pinit": 0.3})
    with pytest.raises(RequestError, match=r"^attack 'square' refuses its options \(expected a p_init above 0"):
        attacks(attack=("square",), option={"p_init": 2.0})


def test_attacks_may_be_given_as_they_are() -> None:
    made = make_cells(make_config({"eps": ("0.5", "1")}), ["net"], [PGD(steps=7), Noise(restarts=2)])
    assert [(cell.attack.name, cell.threat.text) for cell in made] == [
        ("pgd", "0.5"),
        ("pgd", "1"),
        ("noise", "0.5"),
        ("noise", "1"),
    ]


# Passes


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
        {"attack": ("apgd_targeted",), "restarts": (2,), "targets": 3},
        {"attack": ("apgd_targeted",), "targets": 9},
        {"attack": ("square",), "queries": 7, "restarts": (3,)},
        {"attack": ("fab",), "targets": 4},
        {"attack": ("noise",), "restarts": (5,)},
        {"attack": ("autoattack",)},
    ],
    ids=lambda flags: " ".join(map(str, flags.values())),
)
def test_passes_of_an_image_that_stays_robust_are_no_more_than_was_said(flags: dict[str, Any]) -> None:
    if {"fab", "autoattack"} & set(flags["attack"]):
        pytest.importorskip("torchattacks")
    (attack,) = attacks(steps=(6,), **flags)
    if isinstance(attack, AutoAttack):
        # Its queries alone would take a minute.
        attack = Ensemble(members=(*attack.ensemble.members[:-1], Square(queries=7)))
    network = Fortress()
    images = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(1))
    trace = attack.with_loss("ce")(network, images, torch.zeros(2, dtype=torch.long), "l2", 0.1).trace
    spent = trace.forward_passes + trace.backward_passes
    assert trace.forward_passes.sum() == network.shown
    assert (spent <= attack.passes).all()
    # And not many more than are needed.
    assert (spent >= 0.9 * attack.passes).all()


# Identity


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
    if type(one.attack) is type(other.attack):
        for option, value in other.attack.options.items():
            near = replace(one, attack=replace(one.attack, **{option: value}))
            assert (one.key == near.key) == (one == near)


def test_a_cell_includes_cheaper_ones_of_the_same_search() -> None:
    (small, *_, large) = cells(eps=("0.1", "0.4"), steps=(2, 5))
    assert large.includes(small)
    assert not small.includes(large)
    assert not large.includes(large)
    others: list[dict[str, Any]] = [
        {"attack": PGD(steps=2, loss="auto", step_size="0.1")},
        {"attack": PGD(steps=2, loss="auto", restarts=2)},
        {"attack": PGD(steps=2, loss="auto", start="random")},
        {"attack": PGD(steps=2, loss="margin")},
        {"attack": APGD(steps=2, loss="auto")},
        {"threat": Threat.of("linf", "0.1")},
        {"model": "other"},
        {"criterion": "targeted:3"},
        {"space": "encoded"},
    ]
    for changes in others:
        assert not large.includes(replace(small, **changes)), changes
