"""Adaptive solvers of torchdiffeq, for comparison: one step size for all images together."""

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.dynamics import SOLVERS
from robustbench_bcos.dynamics.solver import AdaptiveSolver, Field

FIRST_STEP = 0.01
"""Part of the whole time that the first step tries. Where it is not given, the library differentiates its choice."""


@final
@SOLVERS.registered("torchdiffeq")
@dataclass(frozen=True, kw_only=True)
class Torchdiffeq(AdaptiveSolver):
    """Chen et al. (2018). Its error is one norm over the batch, so that an image's answer depends on its neighbours.

    A run refuses a classifier that is solved so; ``per_image`` solves one image after the other.
    """

    methods = ("dopri5", "bosh3", "dopri8", "adaptive_heun", "fehlberg2")

    per_image: bool = False

    @property
    def mixes_images(self) -> bool:
        """Where images are solved together."""
        return not self.per_image

    def advance(self, field: Field, states: Tensor, start: float, end: float) -> Tensor:
        """From time to time; all is NaN where the library gives up."""
        if not len(states):
            return states
        parts = states.split(1) if self.per_image else (states,)
        return torch.cat([self._solve(field, part, start, end) for part in parts])

    def _solve(self, field: Field, states: Tensor, start: float, end: float) -> Tensor:
        options = {"first_step": FIRST_STEP * (end - start), "max_num_steps": self.most_steps}
        times = states.new_tensor([start, end])
        try:
            found: Tensor = _odeint()(
                lambda _, state: field(state),
                states,
                times,
                rtol=self.rtol,
                atol=self.atol,
                method=self.method,
                options=options,
            )[-1]
        except AssertionError:
            # A step of size 0, too many steps, or a state that is not finite.
            return torch.full_like(states, torch.nan)
        return found


def _odeint() -> Any:  # noqa: ANN401 (a function without types)
    try:
        from torchdiffeq import odeint
    except ModuleNotFoundError as error:
        if error.name != "torchdiffeq":
            raise
        raise RequestError(
            "torchdiffeq, which this solver comes from, is not installed: pip install torchdiffeq"
        ) from None
    return odeint
