"""The classical Runge-Kutta method with steps of its own for each image, chosen by an estimate of its error."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from robustbench_bcos.core.types import PerImage
from robustbench_bcos.dynamics import SOLVERS
from robustbench_bcos.dynamics.solver import AdaptiveSolver, Field

EXPONENT = 1 / 4
"""The estimate is of order 4 in the step size: it is that of the embedded method of order 3."""

CAUTION = 0.9
"""Part of the step size that would meet the tolerance exactly."""

SHRINK, GROW = 0.2, 5.0
"""Limits of what a step size is multiplied by."""


@final
@SOLVERS.registered("adaptive_rk4")
@dataclass(frozen=True, kw_only=True)
class AdaptiveRungeKutta4(AdaptiveSolver):
    """Four evaluations a step, which is fewer than pairs of order 5 need where tolerances are loose.

    The derivative at the end of a step is the first of the next one. In place of the fourth derivative, it gives a
    method of order 3, whose distance is the estimated error. What is left of the time is cut into equal steps.
    """

    methods = ("rk4",)
    method: str = "rk4"

    def advance(self, field: Field, states: Tensor, start: float, end: float) -> Tensor:
        """Each image in steps of its own; one that needs too many, or is not finite, is NaN."""
        running = torch.arange(len(states), device=states.device)
        first, ends, places = field(states), [], []
        left = torch.full((len(states),), end - start, dtype=states.dtype, device=states.device)
        sizes = _cut(left, self._beginning(field, states.detach(), first.detach(), end - start))
        for _ in range(self.most_steps):
            if not len(running):
                break
            size = sizes.view(-1, *[1] * (states.dim() - 1))
            second = field(torch.addcmul(states, first, size / 2))
            third = field(torch.addcmul(states, second, size / 2))
            fourth = field(torch.addcmul(states, third, size))
            reached = torch.addcmul(torch.addcmul(states, first + fourth, size / 6), second + third, size / 3)
            last = field(reached)
            with torch.no_grad():
                errors = self._sizes((fourth - last) * (size / 6), states, reached)
                lost = ~errors.isfinite()
                accepted = (errors <= 1) | lost  # What is lost is given up.
                factors = (CAUTION * errors.clamp(min=1e-12) ** -EXPONENT).clamp(SHRINK, GROW)
                left = torch.where(accepted, left - sizes, left)
                done = accepted & ((left <= 1e-6 * (end - start)) | lost)
                sizes = _cut(left, sizes * factors)
            if not bool(accepted.all()):
                keep = accepted.view_as(size)
                reached, last = torch.where(keep, reached, states), torch.where(keep, last, first)
            states, first = reached, last
            if bool(done.any()):
                ends.append(states[done])
                places.append(running[done])
                states, first, left, sizes, running = (one[~done] for one in (states, first, left, sizes, running))
        ends.append(torch.full_like(states, torch.nan))
        places.append(running)
        return torch.cat(ends)[torch.cat(places).argsort()]

    def _sizes(self, errors: Tensor, *states: Tensor) -> PerImage:
        """Root mean square of errors in units of the tolerance."""
        largest = torch.stack([state.abs() for state in states]).amax(dim=0)
        found: Tensor = (errors / (self.atol + self.rtol * largest)).flatten(1).square().mean(dim=1).sqrt()
        return found

    @torch.no_grad()
    def _beginning(self, field: Field, states: Tensor, first: Tensor, length: float) -> PerImage:
        """A first step size (Hairer, Norsett and Wanner, II.4), from the field at the beginning and a little later."""
        sizes, slopes = self._sizes(states, states), self._sizes(first, states)
        tried = (0.01 * sizes / slopes.clamp(min=1e-12)).clamp(max=length)
        broad = tried.view(-1, *[1] * (states.dim() - 1))
        bends = self._sizes(field(torch.addcmul(states, first, broad)) - first, states) / tried.clamp(min=1e-12)
        return (1 / torch.maximum(slopes, bends).clamp(min=1e-12)) ** EXPONENT


def _cut(left: PerImage, sizes: PerImage) -> PerImage:
    """Step sizes of which a whole number fits into the time that is left."""
    return left / (left / sizes).ceil().clamp(min=1)
