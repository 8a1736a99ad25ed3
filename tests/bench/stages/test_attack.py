"""Images that have fallen within a smaller radius are not attacked within a larger one, and nothing else changes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustbench_bcos.bench import attacking
from robustbench_bcos.bench.cells import Cell
from robustbench_bcos.bench.request import Request
from robustbench_bcos.bench.store import Store
from robustbench_bcos.core.quantities import Quantity
from tests.bench.own_request import own_request
from tests.bench.tiny_zoo import carry_out, measure, tiny_request

RADII = ("0.4", "0.1", "1")
"""Not in order: what is inherited does not depend on how the radii were written."""


def stored(request: Request) -> Store:
    store = Store()
    carry_out(request, store)
    return store


def cell_of(request: Request, model: str, eps: str) -> Cell:
    return next(cell for cell in request.cells if (cell.model, cell.threat.text) == (model, eps))


def fallen(store: Store, cell: Cell) -> set[int]:
    return {row.image for row in store.verdicts(cell) if row.attacked} - set(store.robust(cell))


@pytest.mark.parametrize("model", ["tiny-natural", "tiny-bcos"])
def test_a_carried_image_has_the_verdict_of_the_smallest_radius_and_cost_nothing(model: str, tiny_zoo: Path) -> None:
    request = tiny_request(tiny_zoo, eps=RADII, steps=(5,), model=(model,))
    store = stored(request)
    small, middle, large = (cell_of(request, model, eps) for eps in ("0.1", "0.4", "1"))
    rows = {cell: {row.image: row for row in store.verdicts(cell)} for cell in (small, middle, large)}
    assert not any(row.inherited for row in rows[small].values())
    assert {image for image, row in rows[middle].items() if row.inherited} == fallen(store, small)
    assert {image for image, row in rows[large].items() if row.inherited} == fallen(store, middle)
    assert fallen(store, small) < fallen(store, middle)
    for image, row in rows[large].items():
        if row.inherited:
            first = rows[small][image] if image in fallen(store, small) else rows[middle][image]
            assert (row.prediction, row.size, row.margin, row.eight_bit) == (
                first.prediction,
                first.size,
                first.margin,
                first.eight_bit,
            )
            assert (row.forward_passes, row.backward_passes, bool(row.degenerate_gradient)) == (0, 0, False)


def test_what_stands_is_the_same_as_if_every_cell_were_attacked_by_itself(tiny_zoo: Path) -> None:
    shared, apart = (
        tiny_request(tiny_zoo, eps=RADII, steps=(5,), independent_cells=independent) for independent in (False, True)
    )
    with stored(shared) as first, stored(apart) as second:
        for model in ("tiny-natural", "tiny-bcos"):
            before: set[int] = set()
            for eps in sorted(RADII, key=float):
                # By itself, a larger radius may miss what a smaller one found; inherited, it cannot.
                alone = fallen(second, cell_of(apart, model, eps))
                assert fallen(first, cell_of(shared, model, eps)) == alone | before
                before |= alone
            assert (
                first.sums(cell_of(shared, model, "1")).forward_passes
                < second.sums(cell_of(apart, model, "1")).forward_passes
            )


def test_the_row_says_how_many_were_carried(tiny_zoo: Path) -> None:
    rows = measure(tiny_request(tiny_zoo, eps=RADII, steps=(5,), model=("tiny-natural",)))
    by_radius = rows.set_index("eps")
    assert by_radius["inherited"]["0.1"] == 0
    for smaller, larger in (("0.1", "0.4"), ("0.4", "1")):
        fell = by_radius["clean_correct"][smaller] - by_radius["robust_correct"][smaller]
        assert by_radius["inherited"][larger] == fell > 0
    alone = measure(tiny_request(tiny_zoo, eps=RADII, steps=(5,), model=("tiny-natural",), independent_cells=True))
    assert set(alone["inherited"]) == {0}


@pytest.mark.parametrize("changed", [{"select": "last"}, {"select": "best_loss"}, {"independent_cells": True}])
def test_nothing_is_carried_where_every_radius_has_a_candidate_of_its_own(
    changed: dict[str, Any], tiny_zoo: Path
) -> None:
    request = tiny_request(tiny_zoo, eps=RADII, steps=(5,), model=("tiny-natural",), **changed)
    with stored(request) as store:
        assert attacking.inherited(request, store, cell_of(request, "tiny-natural", "1")) == {}
        assert {row.inherited for cell in request.cells for row in store.verdicts(cell)} == {0}


def test_the_same_search_carries_from_smaller_radii_and_fewer_steps(tiny_zoo: Path) -> None:
    request = tiny_request(tiny_zoo, eps=("0.1", "0.4"), steps=(2, 5), loss=("ce", "margin"), model=("tiny-natural",))
    with stored(request) as store:
        for cell in request.cells:
            cheaper = [
                other
                for other in request.cells
                if other.loss == cell.attack.loss
                and other != cell
                and other.threat.radius <= cell.threat.radius
                and other.steps <= cell.attack.steps
            ]
            assert len(cheaper) == 2 ** ((cell.threat.text == "0.4") + (cell.attack.steps == 5)) - 1
            expected: set[int] = set().union(*(fallen(store, other) for other in cheaper))
            assert attacking.inherited(request, store, cell).keys() == expected
            # Whatever a cheaper search has found counts here.
            assert fallen(store, cell) >= expected


def test_a_run_with_another_step_size_carries_nothing_from_its_like(tiny_zoo: Path) -> None:
    request = tiny_request(tiny_zoo, eps=("0.1", "0.4"), steps=(2,), model=("tiny-natural",))
    small, large = (cell_of(request, "tiny-natural", eps) for eps in ("0.1", "0.4"))
    assert large.includes(small)
    assert not small.includes(large)
    assert not large.includes(large)
    for changes in ({"step_size": Quantity.of("0.1")}, {"restarts": 2}, {"start": "random"}, {"model": "other"}):
        assert not large.includes(replace(small, **changes))


@pytest.mark.parametrize("steps", [1, 5])
def test_candidates_for_other_models_are_made_within_each_radius(steps: int, tiny_zoo: Path) -> None:
    """Weak ones of one step: within a larger radius some fail, and what fell before has fallen nonetheless."""
    shared, apart = (
        tiny_request(tiny_zoo, eps=("0.4", "0.1", "1"), steps=(steps,), evidence="quick", independent_cells=independent)
        for independent in (False, True)
    )
    with stored(shared) as first, stored(apart) as second:
        for model in ("tiny-natural", "tiny-bcos"):
            before: set[int] = set()
            for eps in ("0.1", "0.4", "1"):
                cell, alone = cell_of(shared, model, eps), cell_of(apart, model, eps)
                assert first.adversarials(cell) == second.adversarials(alone)
                before |= fallen(second, alone)
                assert fallen(first, cell) == before
                assert first.sums(cell).forward_passes == second.sums(alone).forward_passes


class Band(nn.Module):
    """Wrong in a narrow band of brightness above the images, and right again beyond it."""

    def forward(self, images: Tensor) -> Tensor:
        brightness = images.flatten(1).mean(dim=1)
        inside = 0.04 - (brightness - 0.55).abs()
        return torch.stack([-inside, inside], dim=1)


def test_an_image_that_fell_has_fallen_where_a_larger_step_leaps_over_what_fooled_it() -> None:
    images, labels = torch.full((3, 3, 4, 4), 0.5), torch.zeros(3, dtype=torch.long)
    nets = {"band": Band(), "other": Band()}
    asked: dict[str, Any] = {"norm": ("linf",), "eps": ("0.05", "0.2"), "steps": (1,), "evidence": "quick"}
    request = own_request(nets, images, labels, 2, **asked)
    with stored(request) as store:
        small, large = (cell_of(request, "band", eps) for eps in ("0.05", "0.2"))
        assert fallen(store, small) == fallen(store, large) == {0, 1, 2}
        for row, first in zip(store.verdicts(large), store.verdicts(small), strict=True):
            assert row.inherited
            assert (row.prediction, row.size) == (1, first.size)
            # One step and a last look were spent, and found nothing.
            assert (row.forward_passes, row.backward_passes) == (2, 1)
    with stored(own_request(nets, images, labels, 2, **asked, independent_cells=True)) as store:
        assert fallen(store, large) == set()
