"""Systems against values that are known of them, and explicit solvers on stiff ones."""

import math
from collections.abc import Sequence

import numpy as np
import pytest

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.dynamics import SYSTEMS
from robustbench_bcos.dynamics.system import EXPLICIT, Settings

# From SciPy 1.17 at rtol 1e-10; by hand, of other code.
KNOWN: list[tuple[str, Sequence[float], Sequence[float] | None, float, Sequence[float], float]] = [
    ("lotka_volterra", (1, 1), None, 10, (1.02634, 0.90969), 1e-5),
    ("lotka_volterra", (0.44249296, 4.6280594), (1.3, 0.9, 0.8, 1.8), 3, (0.05125, 0.64267), 1e-4),
    ("lorenz63", (1, 1, 1), None, 1, (-9.37857, -8.35703, 29.36233), 1e-6),
    ("brusselator", (1.5, 3), None, 20, (0.49864, 4.59678), 1e-5),
    ("oregonator", (1, 2, 3), None, 360, (1.000815, 1228.1785, 132.0555), 1e-6),
    ("robertson", (1, 0, 0), None, 40, (0.715827, 9.18553e-6, 0.284164), 2e-6),
    ("robertson", (1, 0, 0), None, 1e5, (0.0178659, 7.27475e-8, 0.982134), 1e-5),
]


@pytest.mark.parametrize(("name", "initial", "parameters", "end", "expected", "relative"), KNOWN)
def test_a_solution_is_the_one_that_is_known(
    name: str,
    initial: Sequence[float],
    parameters: Sequence[float] | None,
    end: float,
    expected: Sequence[float],
    relative: float,
) -> None:
    assert SYSTEMS[name].solve(initial, [0.0, end], parameters)[-1] == pytest.approx(expected, rel=relative)


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_system_has_what_its_data_need(name: str) -> None:
    system = SYSTEMS[name]
    assert system.name == name
    derivative = system.derivative(np.array(system.initial, dtype=float), tuple(system.parameters.values()))
    assert derivative.shape == (len(system.states),) == (len(system.initial),)
    assert system.stiff == (system.settings.method not in EXPLICIT)


def test_what_is_conserved_stays() -> None:
    alpha, beta, gamma, delta = SYSTEMS["lotka_volterra"].parameters.values()
    times = np.linspace(0, 10, 7).tolist()
    prey, predator = SYSTEMS["lotka_volterra"].solve((1, 1), times).T
    kept = delta * prey - gamma * np.log(prey) + beta * predator - alpha * np.log(predator)
    assert kept == pytest.approx([kept[0]] * 7, rel=1e-8)
    assert SYSTEMS["robertson"].solve((1, 0, 0), times).sum(axis=1) == pytest.approx([1] * 7, rel=1e-8)


def test_fixed_points_stay() -> None:
    fixed = [(3.0, 1.5), (1.0, 3.0)]
    for name, point in zip(("lotka_volterra", "brusselator"), fixed, strict=True):
        system = SYSTEMS[name]
        assert system.derivative(np.array(point), tuple(system.parameters.values())) == pytest.approx([0, 0])


def test_small_errors_of_lorenz_grow_at_its_lyapunov_exponent() -> None:
    system = SYSTEMS["lorenz63"]
    states, rates, stretch = system.solve((1, 1, 1), [0.0, 20.0])[-1], [], 0.5
    for _ in range(40):
        ahead = system.solve(states.tolist(), [0.0, stretch], settings=Settings(rtol=1e-8, atol=1e-10))[-1]
        if rates == []:
            beside = states + 1e-6 * np.array([1.0, 0, 0])
        other = system.solve(beside.tolist(), [0.0, stretch], settings=Settings(rtol=1e-8, atol=1e-10))[-1]
        distance = float(np.linalg.norm(other - ahead))
        rates.append(math.log(distance / 1e-6) / stretch)
        states, beside = ahead, ahead + (other - ahead) * 1e-6 / distance
    assert system.lyapunov is not None
    assert np.mean(rates) == pytest.approx(system.lyapunov, abs=0.25)


@pytest.mark.parametrize("method", EXPLICIT)
def test_an_explicit_solver_that_runs_away_on_robertson_is_named_with_where_it_goes(method: str) -> None:
    loose = Settings(method=method, rtol=1e-3, atol=1e-3)
    with pytest.raises(
        RequestError, match=rf"{method} is explicit and robertson is stiff: .* to y1 = -\d.*choose Radau"
    ):
        SYSTEMS["robertson"].solve((1, 0, 0), [0.0, 40.0], settings=loose)


def test_an_explicit_solver_that_is_wrong_without_a_word_is_named_with_what_it_gives() -> None:
    loose = Settings(method="RK23", rtol=1e-3, atol=1e-6)
    with pytest.raises(RequestError, match="RK23 is explicit and robertson is stiff: without a word it gives y2 = "):
        SYSTEMS["robertson"].solve((1, 0, 0), [0.0, 1.0], settings=loose)


def test_an_explicit_solver_may_solve_a_stiff_system_for_a_time_so_short_that_it_can() -> None:
    brief = Settings(method="DOP853", rtol=1e-8, atol=1e-12)
    found = SYSTEMS["robertson"].solve((1, 0, 0), [0.0, 1e-3], settings=brief)
    assert found == pytest.approx(SYSTEMS["robertson"].solve((1, 0, 0), [0.0, 1e-3]), rel=1e-4, abs=1e-10)


def test_bad_input_is_named() -> None:
    system = SYSTEMS["lotka_volterra"]
    with pytest.raises(RequestError, match="lotka_volterra needs 2 finite initial states"):
        system.solve((1, 1, 1), [0.0, 1.0])
    with pytest.raises(RequestError, match="lotka_volterra needs 2 finite initial states"):
        system.solve((1, math.nan), [0.0, 1.0])
    with pytest.raises(RequestError, match="times must increase, got 0 after 1"):
        system.solve((1, 1), [1.0, 0.0])
    for parameters in ((1, 2), (1, 2, 3, math.nan)):
        with pytest.raises(RequestError, match=r"lotka_volterra needs 4 finite parameters \(alpha, .*\), got \[1, 2"):
            system.solve((1, 1), [0.0, 1.0], parameters)
    with pytest.raises(RequestError, match="rtol must be a positive number, got 0"):
        Settings(rtol=0.0)
    with pytest.raises(RequestError, match="SciPy has no method 'RK99': choose RK23"):
        Settings(method="RK99")
    with pytest.raises(RequestError, match="unknown system 'lorenz'"):
        SYSTEMS["lorenz"]
