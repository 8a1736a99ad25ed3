"""Systems of differential equations whose solutions are known, solved by SciPy with settings that are recorded."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np
import numpy.typing as npt

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.dynamics.times import check_times, check_tolerance

Array = npt.NDArray[np.float64]

EXPLICIT = ("RK23", "RK45", "DOP853")
"""SciPy's methods that no stiff system should be solved by."""

METHODS = (*EXPLICIT, "Radau", "BDF", "LSODA")
"""All of them."""

TOO_FAR = 0.01
"""Relative distance from the reference at which an explicit solution of a stiff system is refused."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How SciPy's ``solve_ivp`` is called."""

    method: str = "DOP853"
    rtol: float = 1e-10
    atol: float = 1e-12

    def __post_init__(self) -> None:
        for name in ("rtol", "atol"):
            check_tolerance(name, getattr(self, name))
        if self.method not in METHODS:
            raise RequestError(f"SciPy has no method {self.method!r}: choose {', '.join(METHODS)}")


STIFF = Settings(method="Radau", rtol=1e-8, atol=1e-12)
"""For stiff systems: with the default atol of 1e-6 a smaller rtol makes Radau worse."""


class AbstractSystem(ABC):
    """An autonomous system, with the parameters and initial states that the literature has."""

    name: ClassVar[str]
    states: ClassVar[tuple[str, ...]]
    initial: ClassVar[tuple[float, ...]]
    parameters: ClassVar[Mapping[str, float]]
    end: ClassVar[float]
    """Until when it is predicted, in its own units of time."""
    stiff: ClassVar[bool] = False
    lyapunov: ClassVar[float | None] = None
    """Largest Lyapunov exponent where it is chaotic: after 1 / exponent, small errors have grown e-fold."""
    source: ClassVar[str]

    @abstractmethod
    def derivative(self, state: Array, parameters: Sequence[float]) -> Array:
        """Derivative by time of one state."""

    @property
    def settings(self) -> Settings:
        """How data are made."""
        return STIFF if self.stiff else Settings()

    @final
    def solve(
        self,
        initial: Sequence[float],
        times: Sequence[float],
        parameters: Sequence[float] | None = None,
        settings: Settings | None = None,
    ) -> Array:
        """States at the times, the first of which has the initial state: (time, state).

        Raises:
            RequestError: times that do not increase, states of another number or that are not finite, a solution that
                SciPy gives up, or one by an explicit method of a stiff system that is none.
        """
        check_times(times)
        values = tuple(self.parameters.values()) if parameters is None else tuple(parameters)
        for what, names, given in (
            ("initial states", self.states, initial),
            ("parameters", tuple(self.parameters), values),
        ):
            # With a NaN SciPy makes steps without an end.
            if len(given) != len(names) or not all(map(math.isfinite, given)):
                raise RequestError(
                    f"{self.name} needs {len(names)} finite {what} ({', '.join(names)}), got {list(given)}: give those"
                )
        chosen = settings or self.settings
        found = self._solved(initial, times, values, chosen)
        if self.stiff and chosen.method in EXPLICIT:
            reference = self._solved(initial, times, values, self.settings)
            sizes = np.abs(reference).max(axis=0)
            distances = np.abs(found - reference).max(axis=0) / sizes
            if not (distances < TOO_FAR).all():
                worst = int(np.nanargmax(distances))
                got, right = found[-1, worst], reference[-1, worst]
                raise RequestError(
                    f"{chosen.method} is explicit and {self.name} is stiff: without a word it gives "
                    f"{self.states[worst]} = {got:.4g} at time {times[-1]:g}, where it is {right:.4g}; choose Radau, "
                    "BDF or LSODA"
                )
        return found

    def _solved(
        self, initial: Sequence[float], times: Sequence[float], values: Sequence[float], settings: Settings
    ) -> Array:
        from scipy.integrate import solve_ivp

        def derivative(_: float, state: Array) -> Array:
            return self.derivative(state, values)

        def solved(t_eval: Array | None) -> Any:  # noqa: ANN401 (SciPy's own)
            with np.errstate(all="ignore"):
                return solve_ivp(
                    derivative,
                    (times[0], times[-1]),
                    np.asarray(initial, dtype=float),
                    settings.method,
                    t_eval,
                    rtol=settings.rtol,
                    atol=settings.atol,
                )

        found = solved(np.asarray(times, dtype=float))
        if not found.success or not np.isfinite(found.y).all():
            if self.stiff and settings.method in EXPLICIT:
                run_away = solved(None).y[:, -1]
                raise RequestError(
                    f"{settings.method} is explicit and {self.name} is stiff: it runs away to {self.states[0]} = "
                    f"{run_away[0]:.4g}, where SciPy gives up ({found.message}); choose Radau, BDF or LSODA"
                )
            raise RequestError(
                f"{settings.method} finds no solution of {self.name} ({found.message}): choose Radau, or a shorter time"
            )
        solution: Array = found.y.T
        return solution
