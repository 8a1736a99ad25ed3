"""What a solver is: from states at one time to states at later times, along a field.

A solver here is differentiable by the states, and **its step sizes are constants**: no gradient passes through their
choice. Only so do the contributions of a solution to a score sum to the score. Fields take the state alone; time, where
a field needs it, is a state of its own whose derivative is 1, so that its share is seen.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.dynamics import SOLVERS
from robustbench_bcos.dynamics.times import check_times, check_tolerance

Field = Callable[[Tensor], Tensor]
"""States (image, ...) to their derivatives by time, of the same shape."""

TIGHTER = 100.0
"""Tolerances of :meth:`AdaptiveSolver.tighter` are so many times smaller."""

FINER = 4
"""Steps of :meth:`FixedStepSolver.tighter` are so many times more."""


@dataclass(frozen=True, kw_only=True)
class AbstractSolver(ABC):
    """A way of solving an initial value problem. Subclasses are frozen; their fields are their options."""

    name: ClassVar[str]
    adaptive: ClassVar[bool]
    """Whether it chooses its steps by what it estimates its error to be."""

    @property
    def mixes_images(self) -> bool:
        """Whether the solution of one image depends on the others it is solved with."""
        return False

    @abstractmethod
    def advance(self, field: Field, states: Tensor, start: float, end: float) -> Tensor:
        """States at ``end``, given those at ``start``; where a solution cannot be found, NaN.

        Args:
            field: what is integrated.
            states: (image, ...).
            start: their time.
            end: a later time.
        """

    @abstractmethod
    def tighter(self) -> "AbstractSolver":
        """The same solver with a smaller error."""

    @final
    def solve(self, field: Field, states: Tensor, times: Sequence[float]) -> Tensor:
        """States at each of the times, (time, image, ...), the first of which are the given ones.

        Raises:
            RequestError: times that do not increase, states that are not finite, a field of another width than the
                states', or a solution that is not finite.
        """
        check_times(times)
        if not states.is_floating_point() or states.dim() < 2:
            raise RequestError(
                f"initial states must be floating point and of shape (image, ...), got {_described(states)}: add "
                ".float() or .unsqueeze(0), say"
            )
        if not bool(states.isfinite().all()):
            raise RequestError("initial states must be finite, got NaN or infinite values: repair or leave out those")
        with torch.no_grad():
            given = field(states)
        if not isinstance(given, Tensor) or given.shape != states.shape:
            raise RequestError(
                f"the field gives {_described(given)} for states of shape {tuple(states.shape)}: it must give one "
                "derivative for each state"
            )
        if not bool(given.isfinite().all()):
            raise RequestError(
                "the field gives NaN or infinite derivatives for the initial states: repair its weights, or what it "
                "divides by"
            )
        found = [states]
        for start, end in pairwise(times):
            found.append(self.advance(field, found[-1], start, end))
            lost = ~found[-1].detach().flatten(1).isfinite().all(dim=1)
            wrong = lost | self._wrong(field, found[-2].detach(), found[-1].detach(), start, end)
            if bool(wrong.any()):
                what = "finite solution" if bool(lost.any()) else "solution with an error below its own size"
                raise RequestError(
                    f"{self} finds no {what} between times {start:g} and {end:g} for {int(wrong.sum())} of "
                    f"{len(wrong)} states: the problem may be stiff for an explicit solver; take more steps or a "
                    "smaller tolerance, or solve it with an implicit one, SciPy's Radau say"
                )
        return torch.stack(found)

    def _wrong(self, field: Field, states: Tensor, ends: Tensor, start: float, end: float) -> Tensor:
        """Of which images a solution is known to be none; those of an adaptive solver are within its tolerance."""
        return torch.zeros(len(states), dtype=torch.bool, device=states.device)

    def __str__(self) -> str:
        options = ", ".join(f"{field.name} {getattr(self, field.name)}" for field in fields(self))
        return f"{self.name} ({options})"


@dataclass(frozen=True, kw_only=True)
class FixedStepSolver(AbstractSolver):
    """An explicit Runge-Kutta method with equal steps: each image by itself, and exact contributions.

    Args:
        steps: from one time to the next.

    Raises:
        RequestError: there are none.
    """

    adaptive = False
    order: ClassVar[int]
    """The error of a step of size h is of order h^(order + 1)."""
    stages: ClassVar[int]
    """Evaluations of the field in a step."""

    steps: int = 8

    def __post_init__(self) -> None:
        _check_whole("steps", self.steps, "8")

    @final
    def advance(self, field: Field, states: Tensor, start: float, end: float) -> Tensor:
        """So many equal steps."""
        size = (end - start) / self.steps
        for _ in range(self.steps):
            states = self.step(field, states, size)
        return states

    @abstractmethod
    def step(self, field: Field, states: Tensor, size: float) -> Tensor:
        """States one step later."""

    @final
    def tighter(self) -> "AbstractSolver":
        """With four times the steps."""
        return replace(self, steps=FINER * self.steps)

    def error(self, field: Field, states: Tensor, start: float, end: float) -> Tensor:
        """Estimated error of :meth:`advance` by Richardson's extrapolation: against half the step size."""
        halved = replace(self, steps=2 * self.steps)
        with torch.no_grad():
            difference = self.advance(field, states, start, end) - halved.advance(field, states, start, end)
        return difference.abs() / (1 - 2.0**-self.order)

    @final
    def _wrong(self, field: Field, states: Tensor, ends: Tensor, start: float, end: float) -> Tensor:
        """Where the estimated error has the size of the solution."""
        errors = torch.linalg.vector_norm(self.error(field, states, start, end).flatten(1), dim=1)
        sizes = torch.maximum(*(torch.linalg.vector_norm(one.flatten(1), dim=1) for one in (states, ends)))
        wrong: Tensor = ~(errors <= sizes)
        return wrong


@dataclass(frozen=True, kw_only=True)
class AdaptiveSolver(AbstractSolver):
    """A method that chooses its steps so that its estimated error stays below ``atol + rtol * |state|``.

    Args:
        rtol: relative tolerance.
        atol: absolute tolerance.
        method: as its library calls it.
        most_steps: after so many it gives up.

    Raises:
        RequestError: a tolerance that is not positive, no such method, or no steps at all.
    """

    adaptive = True
    methods: ClassVar[tuple[str, ...]]

    rtol: float = 1e-5
    atol: float = 1e-6
    method: str = "dopri5"
    most_steps: int = 10_000

    def __post_init__(self) -> None:
        for tolerance in ("rtol", "atol"):
            check_tolerance(tolerance, getattr(self, tolerance))
        if self.rtol >= 1:
            raise RequestError(f"rtol must be below 1, got {self.rtol:g}: no state would be right; choose 1e-6, say")
        if self.method not in self.methods:
            raise RequestError(f"solver {self.name} has no method {self.method!r}: choose {', '.join(self.methods)}")
        _check_whole("most_steps", self.most_steps, "10000")

    @final
    def tighter(self) -> "AbstractSolver":
        """With tolerances a hundred times smaller."""
        return replace(self, rtol=self.rtol / TIGHTER, atol=self.atol / TIGHTER)


def make_solver(name: str, options: Mapping[str, Any]) -> AbstractSolver:
    """The solver of that name with these options.

    Raises:
        RequestError: no such solver or option, or a value that it does not take.
    """
    solver = SOLVERS[name]
    taken = [field.name for field in fields(solver)]
    for option in options:
        if option not in taken:
            raise RequestError(f"solver {name} takes no {option}: it takes {', '.join(taken)}")
    return solver(**options)


def _check_whole(name: str, value: object, example: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise RequestError(f"{name} must be a whole number of at least 1, got {value!r}: choose {example}, say")


def _described(found: object) -> str:
    return f"{tuple(found.shape)} of {found.dtype}" if isinstance(found, Tensor) else type(found).__name__
