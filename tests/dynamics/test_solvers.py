"""Solvers against closed forms, SciPy and each other; the product's own guards see what libraries do by default."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, final

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor, nn

from robustbench_bcos.bench.evidence.answers import batch_independence
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.dynamics import SOLVERS
from robustbench_bcos.dynamics.solver import AbstractSolver, AdaptiveSolver, Field, FixedStepSolver, make_solver
from robustbench_bcos.explanations.completeness import NOTICED, missing_share, what_is_missing
from robustbench_bcos.explanations.explanation import explain
from robustbench_bcos.explanations.verification import verify_explanation
from robustbench_bcos.model_zoo.bcos.layers import BcosLinear

FIXED = [name for name in SOLVERS if not SOLVERS[name].adaptive]
ADAPTIVE = [name for name in SOLVERS if SOLVERS[name].adaptive]
WIDTH = 8
SPEED = 12
"""So that solvers take several steps."""


@pytest.fixture(autouse=True)
def _libraries(request: pytest.FixtureRequest) -> None:
    """Some adaptive solvers are of optional packages, which have the solvers' names."""
    for name in DEFAULTS:
        if f"[{name}" in request.node.name or name in request.node.name.split("[")[0]:
            pytest.importorskip(name)


def make(name: str, **options: Any) -> AbstractSolver:
    return make_solver(name, options)


def oscillator(states: Tensor) -> Tensor:
    return torch.stack([states[:, 1], -states[:, 0]], dim=1)


def pendulum(states: Tensor) -> Tensor:
    return torch.stack([states[:, 1], -torch.sin(states[:, 0])], dim=1)


def at(time: float) -> Tensor:
    """The oscillator's state that began at (1, 0)."""
    return torch.tensor([[math.cos(time), -math.sin(time)]], dtype=torch.float64)


@pytest.mark.parametrize("name", FIXED)
def test_error_shrinks_as_fast_as_the_order_says(name: str) -> None:
    errors = []
    for steps in (20, 40, 80):
        solver = make(name, steps=steps)
        errors.append(float((solver.advance(oscillator, at(0), 0.0, 2.0) - at(2)).abs().max()))
    solver = make(name)
    assert isinstance(solver, FixedStepSolver)
    slopes = [math.log2(before / after) for before, after in pairwise(errors)]
    assert slopes == pytest.approx([solver.order] * 2, abs=0.1)


@pytest.mark.parametrize("name", FIXED)
def test_estimated_error_is_near_the_true_one(name: str) -> None:
    solver = make(name, steps=40)
    assert isinstance(solver, FixedStepSolver)
    true = (solver.advance(oscillator, at(0), 0.0, 2.0) - at(2)).abs()
    torch.testing.assert_close(solver.error(oscillator, at(0), 0.0, 2.0), true, rtol=0.1, atol=1e-12)


ACCURATE: dict[str, dict[str, Any]] = {
    "rk4": {"steps": 600},
    "adaptive_rk4": {"rtol": 1e-11, "atol": 1e-12},
    "torchode": {"rtol": 1e-12, "atol": 1e-13},
    "torchdiffeq": {"rtol": 1e-12, "atol": 1e-13, "per_image": True},
}


@pytest.mark.parametrize("name", ACCURATE)
def test_trajectory_is_scipys(name: str) -> None:
    times = [0.0, 0.7, 1.0, 3.0]
    initial = [1.0, 0.3]
    reference = solve_ivp(
        lambda _, state: [state[1], -np.sin(state[0])], (0, 3), initial, "DOP853", times, rtol=1e-13, atol=1e-14
    )
    found = make(name, **ACCURATE[name]).solve(pendulum, torch.tensor([initial], dtype=torch.float64), times)
    torch.testing.assert_close(found[:, 0], torch.from_numpy(reference.y.T), rtol=1e-10, atol=0)


class Score(nn.Module):
    """A B-cos field that is solved from the features to time 1, and one number read off; without a logit bias."""

    def __init__(self, solve: Callable[[Field, Tensor], Tensor]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.field = nn.Sequential(BcosLinear(WIDTH, 32), BcosLinear(32, WIDTH))
        self.read_out = BcosLinear(WIDTH, 2)
        for module in self.modules():
            if isinstance(module, BcosLinear):
                nn.init.normal_(module.linear.weight, generator=generator)
        self.double().requires_grad_(False)
        self.solve = solve

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.read_out(self.solve(lambda states: SPEED * self.field(states), images.flatten(1)))
        return scores


def images(count: int = 6) -> Tensor:
    return torch.rand((count, 2, 2, 2), generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def solved_by(solver: AbstractSolver) -> Score:
    return Score(lambda field, states: solver.advance(field, states, 0.0, 1.0))


def missing(model: Score) -> float:
    return missing_share(model, explain(model, images()))


@pytest.mark.parametrize("name", SOLVERS)
def test_contributions_sum_to_the_score_under_every_solver(name: str) -> None:
    model = solved_by(make(name))
    assert missing(model) < 1e-12
    assert what_is_missing(model, explain(model, images())) == ""


def test_contributions_sum_under_a_solver_of_ones_own(registries: None) -> None:
    @final
    @SOLVERS.registered("heun3")
    @dataclass(frozen=True, kw_only=True)
    class Heun3(FixedStepSolver):
        order = 3
        stages = 3

        def step(self, field: Field, states: Tensor, size: float) -> Tensor:
            first = field(states)
            third = field(states + 2 * size / 3 * field(states + size / 3 * first))
            return states + size / 4 * (first + 3 * third)

    assert missing(solved_by(make("heun3", steps=3))) < 1e-12


def by_default_torchode(field: Field, states: Tensor) -> Tensor:
    import torchode

    start = states.new_zeros(len(states))
    found = torchode.solve_ivp(
        lambda _, flat: field(flat), states, t_eval=torch.stack([start, start + 1], dim=1), method="tsit5"
    )
    ends: Tensor = found.ys[:, -1]
    return ends


def by_default_torchdiffeq(field: Field, states: Tensor) -> Tensor:
    from torchdiffeq import odeint

    ends: Tensor = odeint(lambda _, flat: field(flat), states, states.new_tensor([0.0, 1.0]), rtol=1e-3, atol=1e-3)[-1]
    return ends


DEFAULTS = {"torchode": by_default_torchode, "torchdiffeq": by_default_torchdiffeq}


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_share_of_the_score_is_missing_under_a_librarys_defaults_and_that_is_said(name: str) -> None:
    model = Score(DEFAULTS[name])
    assert missing(model) > NOTICED
    said = what_is_missing(model, explain(model, images()))
    assert said.startswith(f"{missing(model):.1%} of the logits is in no contribution: a gradient passes through")
    assert "backprop_through_step_size_control=False" in said
    assert "first_step" in said


def test_layers_that_add_constants_are_named_in_its_place() -> None:
    model = solved_by(make("rk4"))
    model.add_module("shift", nn.BatchNorm1d(2))
    plain = model.read_out
    model.read_out = nn.Sequential(plain, nn.Linear(2, 2).double())  # type: ignore[assignment]
    assert "read_out.1" in what_is_missing(model, explain(model, images()))


@pytest.mark.parametrize("name", [*FIXED, "adaptive_rk4", "torchode"])
def test_an_image_is_solved_as_it_is_alone(name: str) -> None:
    assert not make(name).mixes_images
    alone = batch_independence(solved_by(make(name)), images(16))
    assert float(alone.values.max()) < 1e-10  # rounding, where steps are chosen by it


def test_a_sum_that_is_exact_does_not_show_that_steps_are_constants() -> None:
    """Steps that relative errors alone choose do not change with the scale of an image, so nothing is missing."""

    def relative(field: Field, states: Tensor) -> Tensor:
        """Euler's method, with a gradient through its step sizes."""
        reached, left = states, torch.ones_like(states[:, :1])
        for _ in range(20):
            slope = field(reached)
            size = torch.minimum(left, 0.05 * reached.norm(dim=1, keepdim=True) / slope.norm(dim=1, keepdim=True))
            reached, left = reached + size * slope, left - size
        return reached

    assert missing(Score(relative)) < 1e-6
    assert "refuted" in str(verify_explanation(Score(relative), images()))
    assert "verified" in str(verify_explanation(solved_by(make("adaptive_rk4")), images()))


def test_images_take_steps_of_their_own_and_few_evaluations() -> None:
    shown: list[int] = []

    def counted(states: Tensor) -> Tensor:
        shown.append(len(states))
        return oscillator(states) * states.norm(dim=1, keepdim=True)  # the farther, the faster

    make("adaptive_rk4", rtol=1e-6, atol=1e-6).advance(counted, at(0) * torch.tensor([[1.0], [10.0]]), 0.0, 1.0)
    together = shown.count(2)
    assert 5 < together < len(shown) / 4


def test_torchdiffeq_mixes_images_unless_it_is_asked_for_one_at_a_time() -> None:
    assert make("torchdiffeq").mixes_images
    assert not make("torchdiffeq", per_image=True).mixes_images
    loose = {"rtol": 1e-1, "atol": 1e-1}
    mixed = batch_independence(solved_by(make("torchdiffeq", **loose)), images(16))
    alone = batch_independence(solved_by(make("torchdiffeq", per_image=True, **loose)), images(16))
    assert mixed.against.any()
    assert not alone.against.any()


@pytest.mark.parametrize("name", ["adaptive_rk4", "torchode"])
def test_an_image_that_fails_is_nan_and_the_others_are_solved(name: str) -> None:
    def explosive(states: Tensor) -> Tensor:
        return states.square()  # infinite at time 1 / state

    states = torch.tensor([[0.5], [2.0], [0.1]], dtype=torch.float64)
    ends = make(name, rtol=1e-8, atol=1e-8, most_steps=500).advance(explosive, states, 0.0, 1.0)
    assert ends.isfinite().flatten().tolist() == [True, False, True]
    torch.testing.assert_close(ends[[0, 2]], torch.tensor([[1.0], [1 / 9]], dtype=torch.float64), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", SOLVERS)
def test_tighter_errors_are_smaller(name: str) -> None:
    solver = make(name)
    errors = [
        float((one.advance(oscillator, at(0), 0.0, 2.0) - at(2)).abs().max()) for one in (solver, solver.tighter())
    ]
    assert errors[1] < errors[0] / 3


@pytest.mark.parametrize("name", SOLVERS)
def test_stiff_problems_without_a_solution_are_named(name: str) -> None:
    solver = make(name, **({} if name in FIXED else {"most_steps": 200}))
    no_solution = f"{name} .* finds no finite solution between times 0 and 1 for 2 of 2 .*Radau"
    with pytest.raises(RequestError, match=no_solution):
        solver.solve(lambda states: -1e6 * (states + states**3), torch.ones(2, 1, dtype=torch.float64), [0.0, 1.0])


@pytest.mark.parametrize("name", FIXED)
def test_a_finite_solution_that_is_all_error_is_named(name: str) -> None:
    with pytest.raises(RequestError, match=f"{name} .* finds no solution with an error below its own size .* 1 of 2"):
        make(name).solve(lambda states: -states * torch.tensor([[1.0], [100.0]]), torch.ones(2, 1), [0.0, 1.0])


@pytest.mark.parametrize("times", [[0.0], [0.0, 0.0], [0.0, 2.0, 1.0], [0.0, math.nan]])
def test_times_must_increase(times: list[float]) -> None:
    with pytest.raises(RequestError, match=r"times must (be at least a start|increase, got)"):
        make("rk4").solve(oscillator, at(0), times)


@pytest.mark.parametrize(
    ("states", "field", "said"),
    [
        (at(0) * math.nan, oscillator, "initial states must be finite"),
        (torch.ones(2, 2, dtype=torch.long), oscillator, r"must be floating point .* got \(2, 2\) of torch.int64"),
        (torch.ones(3), oscillator, r"of shape \(image, ...\), got \(3,\) of torch.float32"),
        (at(0), lambda states: states[:, :1], r"the field gives \(1, 1\) of .* for states of shape \(1, 2\)"),
        (at(0), lambda states: None, r"the field gives NoneType for states of shape \(1, 2\)"),
        (at(0), lambda states: states / 0, "the field gives NaN or infinite derivatives"),
    ],
)
def test_states_and_fields_that_are_none_are_named(states: Tensor, field: Field, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        make("rk4").solve(field, states, [0.0, 1.0])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rtol": 0.0}, "rtol must be a positive number, got 0.0"),
        ({"atol": -1e-6}, "atol must be a positive number, got -1e-06"),
        ({"rtol": math.nan}, "rtol must be a positive number, got nan"),
        ({"rtol": "1e-3"}, "rtol must be a positive number, got '1e-3'"),
        ({"rtol": 1.0}, "rtol must be below 1, got 1"),
        ({"method": "rk45"}, "has no method 'rk45'"),
        ({"most_steps": 0}, "most_steps must be a whole number of at least 1, got 0"),
    ],
)
def test_options_of_adaptive_solvers_are_checked(options: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        make("torchode", **options)


@pytest.mark.parametrize("steps", [0, 2.5, math.nan, "3", True])
def test_steps_are_whole(steps: Any) -> None:
    with pytest.raises(RequestError, match="steps must be a whole number of at least 1, got"):
        make("euler", steps=steps)


def test_options_of_solvers_are_checked() -> None:
    with pytest.raises(RequestError, match="solver rk4 takes no rtol: it takes steps"):
        make("rk4", rtol=1e-3)
    with pytest.raises(RequestError, match="unknown solver 'rk5'"):
        make("rk5")


def test_every_adaptive_solver_is_one() -> None:
    assert ADAPTIVE
    assert all(issubclass(SOLVERS[name], AdaptiveSolver) for name in ADAPTIVE)
