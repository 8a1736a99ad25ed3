"""Adaptive solvers of torchode, with steps of its own for each image."""

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.dynamics import SOLVERS
from robustbench_bcos.dynamics.solver import AdaptiveSolver, Field

STEP_METHODS = {"dopri5": "Dopri5", "tsit5": "Tsit5", "heun": "Heun"}


@final
@SOLVERS.registered("torchode")
@dataclass(frozen=True, kw_only=True)
class Torchode(AdaptiveSolver):
    """Lienen and Günnemann (2022); no gradient passes through the choice of steps, which is not the library's default.

    An image that torchode gives up on (its error stays too large, or its state is not finite) is NaN here. In torchode
    itself it ends the batch, and the others keep extrapolated states that are marked as solved.
    """

    methods = tuple(STEP_METHODS)

    def advance(self, field: Field, states: Tensor, start: float, end: float) -> Tensor:
        """From time to time; images that fail are left out, and the others solved without them."""
        rows = states.flatten(1)
        running = torch.arange(len(rows), device=rows.device)
        while len(running):
            ends, status = self._solve(field, states.shape[1:], rows[running], start, end)
            if not bool((status != 0).any()):
                # What failed stays NaN, which the caller sees.
                found = torch.full_like(rows, torch.nan).index_copy(0, running, ends)
                return found.view_as(states)
            running = running[status == 0]
        return torch.full_like(states, torch.nan)

    def _solve(self, field: Field, shape: torch.Size, rows: Tensor, start: float, end: float) -> tuple[Tensor, Tensor]:
        """End states, and a status for each: 0 where it was reached."""
        torchode = _torchode()

        def derivatives(_: Tensor, flat: Tensor) -> Tensor:
            return field(flat.view(-1, *shape)).flatten(1)

        term = torchode.ODETerm(derivatives)
        method = getattr(torchode, STEP_METHODS[self.method])(term=term)
        adjoint = torchode.AutoDiffAdjoint(
            method,
            torchode.IntegralController(atol=self.atol, rtol=self.rtol, term=term),
            max_steps=self.most_steps,
            backprop_through_step_size_control=False,
        )
        begin, finish = (rows.new_full((len(rows),), time) for time in (start, end))
        solution = adjoint.solve(torchode.InitialValueProblem(y0=rows, t_start=begin, t_end=finish))
        return solution.ys[:, -1], solution.status


def _torchode() -> Any:  # noqa: ANN401 (a module without types)
    try:
        import torchode
    except ModuleNotFoundError as error:
        if error.name != "torchode":
            raise
        raise RequestError("torchode, which this solver comes from, is not installed: pip install torchode") from None
    return torchode
