"""A robust accuracy of forecasters is repaired by longer searches, and suspect where they do not settle."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from robustbench_bcos.regression import evidence
from robustbench_bcos.regression.attack import Attacked, attack, free_inputs, robust_to_noise
from robustbench_bcos.regression.evidence import LONGER, STARTS, gather
from tests.regression.test_regression import DATA, errors, trained

FEW = DATA.select(range(3))
WITHIN: dict[str, Any] = {"norm": "linf", "cells": [(0.05, "both"), (0.1, "both")]}


@dataclass
class Searches:
    """Stands for attacks of which that of so many steps breaks these trajectories in the second cell."""

    breaks: dict[int, list[int]]

    def __call__(self, *args: object, steps: int, among: Tensor, **others: object) -> list[Attacked]:
        left = among.clone()
        left[1, self.breaks.get(steps, [])] = False
        return [
            Attacked(inputs=one, outputs=one, eligible=one, robust=one, stuck=torch.zeros_like(one)) for one in left
        ]


def found(*, stuck: bool = False) -> list[Attacked]:
    every = torch.ones(len(FEW), dtype=torch.bool)
    met = every if stuck else ~every
    return [Attacked(inputs=every, outputs=every, eligible=every, robust=every, stuck=met) for _ in range(2)]


@pytest.mark.parametrize(
    ("breaks", "stuck", "left", "trust", "reasons"),
    [
        ({}, False, 3, "sound", ""),
        ({5: [1]}, False, 2, "sound", ""),
        ({5: [1], 5 * LONGER: [0]}, False, 1, "suspect", "more_steps"),
        # Where the second search changed nothing there is no third.
        ({5 * LONGER: [0]}, False, 3, "sound", ""),
        ({}, True, 3, "suspect", "degenerate_gradients"),
    ],
)
def test_what_longer_searches_break_counts_and_one_that_still_breaks_makes_suspect(
    breaks: dict[int, list[int]], stuck: bool, left: int, trust: str, reasons: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence, "attack", Searches(breaks))
    gathered = gather(trained(iterations=1), FEW, found(stuck=stuck), tolerance=1e9, steps=5, **WITHIN)
    assert [int(one.robust.sum()) for one in gathered] == [3, left]
    assert (gathered[1].trust, gathered[1].reasons) == (trust, reasons)
    assert gathered[0].trust == ("suspect" if stuck else "sound")


def test_noise_that_breaks_what_searches_do_not_makes_suspect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "attack", Searches({}))
    model = trained(iterations=1)
    tolerance = float(errors(model.model(model.inputs(FEW)), model.truth(FEW)).max()) * 1.000001
    gathered = gather(model, FEW, found(), tolerance=tolerance, steps=5, **WITHIN)
    assert "noise" in gathered[1].reasons
    assert int(gathered[1].robust.sum()) < 3


@pytest.mark.parametrize("targets", ["initial", "parameters", "both"])
def test_noise_moves_what_it_may_and_no_more_than_an_attack(targets: str) -> None:
    model = trained(iterations=1)
    errors_before = errors(model.model(model.inputs(FEW)), model.truth(FEW))
    (reached,) = attack(model, FEW, norm="l2", cells=[(0.1, targets)], tolerance=1e9, steps=20)
    # The attack's own error is one that noise does not reach; the clean one it passes.
    above = float(errors(reached.outputs, model.truth(FEW)).max())
    noise = {"norm": "l2", "eps": 0.1, "targets": targets, "draws": 8}
    assert bool(robust_to_noise(model, FEW, tolerance=above, **noise).all())  # type: ignore[arg-type]
    assert not bool(robust_to_noise(model, FEW, tolerance=float(errors_before.min()), **noise).all())  # type: ignore[arg-type]
    still = robust_to_noise(model, FEW, tolerance=float(errors_before.max()), **noise | {"eps": 0.0})  # type: ignore[arg-type]
    assert bool(still.all())


def test_only_trajectories_that_are_asked_for_are_searched_around() -> None:
    model = trained(iterations=1)
    among = torch.tensor([[True, False, False], [False, False, True]])
    searched = attack(model, FEW, **WITHIN, tolerance=1e9, steps=3, among=among)
    for one, asked in zip(searched, among, strict=True):
        assert torch.equal((one.inputs != model.inputs(FEW)).any(dim=1), asked)
        assert torch.equal(one.robust, asked)


@pytest.mark.parametrize("targets", ["initial", "parameters", "both"])
def test_a_search_begins_at_random_within_the_threat_and_moves_what_it_may(targets: str) -> None:
    model = trained(iterations=1)
    clean = model.inputs(FEW)
    fixed = ~free_inputs(model.model.states, clean.shape[1], targets)
    among: dict[str, Any] = {"norm": "l2", "cells": [(0.1, targets)], "tolerance": 1e9, "steps": 1}
    moved = [attack(model, FEW, draws=[draw], **among)[0].inputs - clean for draw in (None, 0, 1)]
    for one in moved:
        assert not one[:, fixed].any()
        assert 0 < float(one.norm(dim=1).max()) <= 0.1 * (1 + 1e-6)
    assert not torch.equal(moved[1], moved[0])
    assert not torch.equal(moved[2], moved[1])


def test_searches_from_several_starts_together_are_what_each_is_alone() -> None:
    model = trained(iterations=1)
    starts: tuple[int | None, ...] = (None, 0, 1)
    within: dict[str, Any] = {"norm": "l2", "cells": [(0.05, "both"), (0.1, "both")], "steps": 2}
    alone = [attack(model, FEW, **within, tolerance=1e9, draws=[start]) for start in starts]
    among = torch.tensor([[True, True, False], [False, True, True]])
    together = attack(model, FEW, **within, tolerance=1e9, among=among, draws=starts)
    truth = model.truth(FEW)
    for cell, found in enumerate(together):
        made = torch.stack([errors(one[cell].outputs, truth) for one in alone])
        expected = torch.where(among[cell], made.max(dim=0).values, errors(model.model(model.inputs(FEW)), truth))
        torch.testing.assert_close(errors(found.outputs, truth), expected)
    # A trajectory is robust if it stays right from every start.
    second, first = made[:, 1].sort().values[1:].tolist()
    judged = {
        start: attack(model, FEW, **within, tolerance=(first + second) / 2, draws=start)[1]
        for start in (*((one,) for one in starts), starts)
    }
    assert sorted(bool(one.robust[1]) for start, one in judged.items() if len(start) == 1) == [False, True, True]
    assert not judged[starts].robust[1]


def test_longer_searches_begin_elsewhere_too_and_each_at_starts_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[tuple[int, Sequence[int | None]]] = []

    def search(*args: object, steps: int, draws: Sequence[int | None], **others: Any) -> list[Attacked]:
        tried.append((steps, draws))
        return Searches({5: [1]})(steps=steps, **others)

    monkeypatch.setattr(evidence, "attack", search)
    gather(trained(iterations=1), FEW, found(), tolerance=1e9, steps=5, **WITHIN)
    (second, elsewhere), (third, others) = tried
    assert (second, third) == (5, 5 * LONGER)
    assert len(set(elsewhere)) == STARTS == len(set(others) - {None})
    assert set(elsewhere).isdisjoint(others)
