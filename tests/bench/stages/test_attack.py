"""Images that are broken within a smaller radius are not attacked within a larger one, and nothing else changes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustbench_bcos.bench import runner
from robustbench_bcos.bench.cells import Cell
from robustbench_bcos.bench.request import Request
from robustbench_bcos.bench.rows import VerdictRow
from robustbench_bcos.bench.stages.attack import inherited_verdicts
from robustbench_bcos.bench.store import Store
from tests.bench.own_request import own_request
from tests.bench.tiny_zoo import NAMES, carry_out, measure, tiny_request

RADII = ("0.4", "0.1", "1")
"""Not in order: what is inherited does not depend on how the radii were written."""


def stored(request: Request) -> Store:
    store = Store()
    carry_out(request, store)
    return store


def cell_of(request: Request, model: str, eps: str) -> Cell:
    return next(cell for cell in request.cells if (cell.model, cell.threat.text) == (model, eps))


def verdicts(store: Store, cell: Cell) -> dict[int, VerdictRow]:
    return {row.image: row for row in store.verdicts(cell)}


def broken(store: Store, cell: Cell) -> set[int]:
    return {row.image for row in store.verdicts(cell) if row.success}


@pytest.mark.parametrize("criterion", [{}, {"criterion": "targeted", "target": "3"}], ids=["misclassified", "targeted"])
@pytest.mark.parametrize("model", NAMES)
def test_an_inherited_verdict_is_that_of_the_smallest_radius_and_cost_nothing(
    model: str, criterion: dict[str, str], tiny_zoo: Path
) -> None:
    request = tiny_request(tiny_zoo, eps=RADII, steps=(5,), model=(model,), **criterion)
    small, middle, large = (cell_of(request, model, eps) for eps in ("0.1", "0.4", "1"))
    with stored(request) as store:
        first, second, third = (verdicts(store, cell) for cell in (small, middle, large))
        assert not any(row.inherited for row in first.values())
        assert {image for image, row in second.items() if row.inherited} == broken(store, small)
        assert {image for image, row in third.items() if row.inherited} == broken(store, middle)
        assert broken(store, small) < broken(store, middle)
        free = {"degenerate_gradient": False, "forward_passes": 0, "backward_passes": 0, "inherited": True}
        for image in broken(store, middle):
            source = first[image] if first[image].success else second[image]
            assert third[image] == replace(source, cell=large.key, **free)


def test_what_is_robust_is_the_same_as_if_every_cell_were_attacked_by_itself(tiny_zoo: Path) -> None:
    shared, apart = (
        tiny_request(tiny_zoo, eps=RADII, steps=(5,), independent_cells=independent) for independent in (False, True)
    )
    with stored(shared) as first, stored(apart) as second:
        for model in NAMES:
            before: set[int] = set()
            for eps in sorted(RADII, key=float):
                # By itself, a larger radius may miss what a smaller one found; inherited, it cannot.
                alone = broken(second, cell_of(apart, model, eps))
                assert broken(first, cell_of(shared, model, eps)) == alone | before
                before |= alone
            passes = [store.sums(cell_of(shared, model, "1")).forward_passes for store in (first, second)]
            assert passes[0] < passes[1]


def test_the_row_says_how_many_were_inherited(tiny_zoo: Path) -> None:
    rows = measure(tiny_request(tiny_zoo, eps=RADII, steps=(5,), model=("tiny-natural",))).set_index("eps")
    assert rows["inherited"]["0.1"] == 0
    for smaller, larger in (("0.1", "0.4"), ("0.4", "1")):
        count = rows["clean_correct"][smaller] - rows["robust_correct"][smaller]
        assert rows["inherited"][larger] == count > 0
    alone = measure(tiny_request(tiny_zoo, eps=RADII, steps=(5,), model=("tiny-natural",), independent_cells=True))
    assert set(alone["inherited"]) == {0}


@pytest.mark.parametrize("changed", [{"select": "last"}, {"select": "best_loss"}, {"independent_cells": True}])
def test_nothing_is_inherited_where_every_radius_has_an_example_of_its_own(
    changed: dict[str, Any], tiny_zoo: Path
) -> None:
    request = tiny_request(tiny_zoo, eps=RADII, steps=(5,), model=("tiny-natural",), **changed)
    with stored(request) as store:
        assert inherited_verdicts(request, cell_of(request, "tiny-natural", "1"), store) == {}
        assert not any(row.inherited for cell in request.cells for row in store.verdicts(cell))


def test_the_same_search_inherits_from_smaller_radii_and_fewer_steps(tiny_zoo: Path) -> None:
    request = tiny_request(tiny_zoo, eps=("0.1", "0.4"), steps=(2, 5), loss=("ce", "margin"), model=("tiny-natural",))
    with stored(request) as store:
        for cell in request.cells:
            cheaper = [
                other
                for other in request.cells
                if other.attack.options["loss"] == cell.attack.options["loss"]
                and other != cell
                and other.threat.radius <= cell.threat.radius
                and other.attack.options["steps"] <= cell.attack.options["steps"]
            ]
            assert len(cheaper) == 2 ** ((cell.threat.text == "0.4") + (cell.attack.options["steps"] == 5)) - 1
            expected: set[int] = set().union(*(broken(store, other) for other in cheaper))
            assert inherited_verdicts(request, cell, store).keys() == expected
            # Whatever a cheaper search has found counts here.
            assert broken(store, cell) >= expected


@pytest.mark.parametrize("steps", [1, 5])
def test_examples_for_other_models_are_made_within_each_radius(
    steps: int, tiny_zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weak ones of one step: within a larger radius some fail, and what was broken before is broken nonetheless."""
    # Examples are made by the attack; no check is asked about them.
    monkeypatch.setattr(runner, "gather_evidence", lambda *_: iter(()))
    shared, apart = (
        tiny_request(tiny_zoo, eps=("0.4", "0.1", "1"), steps=(steps,), evidence="quick", independent_cells=independent)
        for independent in (False, True)
    )
    with stored(shared) as first, stored(apart) as second:
        for model in NAMES:
            before: set[int] = set()
            for eps in ("0.1", "0.4", "1"):
                cell = cell_of(shared, model, eps)
                assert first.adversarials(cell) == second.adversarials(cell)
                before |= broken(second, cell)
                assert broken(first, cell) == before
                assert first.sums(cell).forward_passes == second.sums(cell).forward_passes


class Band(nn.Module):
    """Wrong in a narrow band of brightness above the images, and right again beyond it."""

    def forward(self, images: Tensor) -> Tensor:
        brightness = images.flatten(1).mean(dim=1)
        inside = 0.04 - (brightness - 0.55).abs()
        return torch.stack([-inside, inside], dim=1)


def test_a_broken_image_stays_broken_where_a_larger_step_leaps_over_what_fooled_the_model() -> None:
    images, labels = torch.full((3, 3, 4, 4), 0.5), torch.zeros(3, dtype=torch.long)
    nets = {"band": Band(), "other": Band()}
    asked: dict[str, Any] = {"norm": ("linf",), "eps": ("0.05", "0.2"), "steps": (1,), "evidence": "quick"}
    request = own_request(nets, images, labels, 2, **asked)
    small, large = (cell_of(request, "band", eps) for eps in ("0.05", "0.2"))
    with stored(request) as store:
        assert broken(store, small) == broken(store, large) == {0, 1, 2}
        for row, first in zip(store.verdicts(large), store.verdicts(small), strict=True):
            assert row.inherited
            assert (row.prediction, row.size) == (1, first.size)
            # One step and a last look were spent, and found nothing.
            assert (row.forward_passes, row.backward_passes) == (2, 1)
    with stored(own_request(nets, images, labels, 2, **asked, independent_cells=True)) as store:
        assert broken(store, large) == set()
