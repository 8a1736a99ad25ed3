"""Goals for maps, and searches for them where the nearest map is known in closed form."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from robustbench_bcos.attacks import ATTACKS, GOALS
from robustbench_bcos.attacks.attack import Problem
from robustbench_bcos.attacks.goal import MapCriterion, keeps, map_goals
from robustbench_bcos.attacks.threat import Threat
from robustbench_bcos.core.rng import PerImageRng

SHAPE = (4, 5)
COUNT = 6
MOVING = [name for name in ATTACKS if ATTACKS[name].moves_maps]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("goal", GOALS)
def test_a_map_that_is_only_rescaled_has_not_moved(goal: str) -> None:
    maps, references = normal(3, *SHAPE), normal(3, *SHAPE, seed=1)
    left = GOALS[goal].left(maps, references)
    assert torch.allclose(GOALS[goal].left(1e-6 * maps, 300 * references), left)
    assert ((left >= 0) & (left <= 1)).all()


@pytest.mark.parametrize(
    ("goal", "there"),
    [
        ("away", lambda clean: -clean),
        ("target", lambda clean: 5 * clean),
        ("topk", lambda clean: -clean),
        (
            "centre",
            lambda clean: torch.zeros_like(clean).index_put((torch.arange(3), *[torch.tensor(3)] * 2), clean[:, 0, 0]),
        ),
    ],
)
def test_nothing_is_left_at_the_end_of_the_way(goal: str, there: Any) -> None:
    clean = normal(3, 4, 4)
    if goal == "centre":
        clean = torch.zeros_like(clean).index_put((torch.arange(3), *[torch.tensor(0)] * 2), clean[:, 0, 0])
    assert GOALS[goal].left(there(clean), clean).tolist() == pytest.approx([0.0] * 3, abs=1e-12)
    assert GOALS[goal].left(clean, clean).tolist() != pytest.approx([0.0] * 3) or goal == "target"


@pytest.mark.parametrize("goal", GOALS)
def test_a_map_of_zeros_leaves_nothing_to_be_said(goal: str) -> None:
    maps, nothing = normal(2, *SHAPE), torch.zeros(2, *SHAPE)
    assert GOALS[goal].left(maps, nothing).isnan().all()
    assert GOALS[goal].left(nothing, maps).isnan().all()


def test_a_map_of_another_class_is_farther_than_any_of_the_same() -> None:
    criterion = MapCriterion(goal="away", shape=SHAPE)
    clean = normal(4, *SHAPE)
    logits = torch.tensor([[2.0, 1.0], [1.0, 2.0], [1.0, 5.0], [torch.nan, 0.0]], dtype=torch.float64)
    goals = map_goals(torch.zeros(4, dtype=torch.long), torch.ones(4), clean)
    nearness = criterion.nearness(torch.cat([logits, clean.flatten(1)], dim=1), goals)
    assert nearness.tolist() == pytest.approx([-1.0, -3.0, -6.0, -math.inf])
    assert keeps(nearness).tolist() == [True, False, False, False]


def test_a_confidence_beyond_the_band_is_not_kept() -> None:
    criterion = MapCriterion(goal="away", shape=SHAPE, band=0.1)
    clean = normal(3, *SHAPE)
    logits = torch.tensor([[2.0, 0.0], [1.6, 0.0], [9.0, 0.0]], dtype=torch.float64)
    confidence = logits[:1].softmax(dim=1)[:, 0].expand(3)
    goals = map_goals(torch.zeros(3, dtype=torch.long), confidence, clean)
    nearness = criterion.nearness(torch.cat([logits, clean.flatten(1)], dim=1), goals)
    assert keeps(nearness).tolist() == [True, True, False]


def of_the_image(images: Tensor) -> Tensor:
    """A classifier whose map is its image about grey, and whose class is that of the first pixel."""
    first = images[:, 0, 0, 0] - 0.5
    return torch.cat([torch.stack([first, -first], dim=1), (images[:, 0] - 0.5).flatten(1)], dim=1)


def problem(epsilon: float, goal: str = "away", batch_size: int = COUNT, first: float = 0.3) -> Problem:
    centred = 0.2 * normal(COUNT, 1, *SHAPE).clamp(-1.2, 1.2)
    centred[:, 0, 0, 0] = first
    images = (centred + 0.5).float()
    goals = map_goals(torch.zeros(COUNT, dtype=torch.long), torch.ones(COUNT), images[:, 0] - 0.5)
    return Problem(
        classifier=of_the_image,
        images=images,
        goals=goals,
        threat=Threat.of("l2", epsilon),
        criterion=MapCriterion(goal=goal, shape=SHAPE),
        rng=PerImageRng.of(0, range(COUNT)),
        batch_size=batch_size,
    )


@pytest.mark.parametrize("name", MOVING)
def test_the_largest_angle_within_a_ball_is_found(name: str) -> None:
    asked = problem(0.2)
    found = ATTACKS[name](steps=60).for_maps.solve(asked).adversarials
    sine = 0.2 / (asked.images - 0.5).flatten(1).norm(dim=1)
    left = -asked.criterion.nearness(of_the_image(found), asked.goals)
    assert torch.allclose(left, (1 + (1 - sine.double() ** 2).sqrt()) / 2, atol=2e-4)


@pytest.mark.parametrize("name", MOVING)
def test_the_best_that_keeps_the_prediction_is_returned(name: str) -> None:
    """Where the way to the goal leads out of the class, through the first pixel."""
    asked = problem(0.6, first=0.05)
    found = ATTACKS[name](steps=60).for_maps.solve(asked).adversarials
    nearness = asked.criterion.nearness(of_the_image(found), asked.goals)
    assert keeps(nearness).all()
    assert (found[:, 0, 0, 0] < 0.55).any()
    sine = 0.6 / (asked.images - 0.5).flatten(1).norm(dim=1)
    best = (1 + (1 - sine.double().clamp(max=1) ** 2).sqrt()) / 2
    assert (-nearness < 0.1 + 0.9 * best).all()


@pytest.mark.parametrize("name", MOVING)
@pytest.mark.parametrize("goal", GOALS)
def test_batches_change_nothing_and_restarts_only_help(name: str, goal: str) -> None:
    attack = ATTACKS[name](steps=5, restarts=2).for_maps
    alone, together = (attack.solve(problem(0.3, goal, size)) for size in (2, COUNT))
    assert torch.equal(alone.adversarials, together.adversarials)
    assert (together.trace.forward_passes == 18).all()
    asked = problem(0.3, goal)
    once = ATTACKS[name](steps=5).for_maps.solve(asked)
    twice, single = (asked.criterion.nearness(of_the_image(one.adversarials), asked.goals) for one in (together, once))
    assert (twice >= single).all()


@pytest.mark.parametrize("name", MOVING)
def test_the_first_restart_begins_where_the_problem_says(name: str) -> None:
    """At the end of the way, where no search has anything to add."""
    asked = problem(30.0)
    asked = replace(asked, criterion=MapCriterion(goal="target", shape=SHAPE), starts=asked.images)
    found = ATTACKS[name](steps=1).for_maps.solve(asked)
    assert torch.equal(found.adversarials, asked.images)
    assert (found.trace.forward_passes == 2).all()
