"""Networks that predict a system's states from its initial state and its parameters, all scaled to [0, 1].

A B-cos network is a linear map of its input with dynamic weights, and has no bias. So that a field can express more
than homogeneous functions, it sees [z, 1 - z] at every evaluation; the 1 is a *drive*, an input of its own, whose
share of a prediction is shown apart from those of initial states and parameters.
"""

from collections.abc import Sequence
from dataclasses import fields
from itertools import pairwise

import torch
from torch import Tensor, nn

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.dynamics import SOLVERS
from robustbench_bcos.dynamics.solver import AbstractSolver, make_solver
from robustbench_bcos.model_zoo.bcos.layers import BcosLinear
from robustbench_bcos.regression.recipe import Recipe


class Gain(nn.Module):
    """A factor for each output, so that unit-norm filters can give derivatives of any size."""

    def __init__(self, features: int, size: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((features,), size))

    def forward(self, features: Tensor) -> Tensor:
        """Multiply."""
        return features * self.weight


def perceptron(recipe: Recipe, inputs: int, outputs: int) -> nn.Sequential:
    """Layers of a field or of a direct regressor: B-cos without any bias, or linear with tanh between them."""
    widths = [inputs, *[recipe.width] * (recipe.depth - 1), outputs]
    layers: list[nn.Module] = []
    for number, (before, after) in enumerate(pairwise(widths)):
        if recipe.family == "bcos":
            # A random filter has |cos| of 1 / sqrt(inputs).
            layers += [BcosLinear(before, after, b=recipe.b), Gain(after, (before**0.5) ** (recipe.b - 1))]
        else:
            layers += [nn.Linear(before, after), *[nn.Tanh()] * (number < recipe.depth - 1)]
    return nn.Sequential(*layers)


def initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Draw new weights in place, normal with variance 1 / inputs; biases are 0."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class Forecaster(nn.Module):
    """From (trajectory, state + parameter) to (trajectory, time * state), without the initial time; all scaled.

    Args:
        recipe: what it is made of.
        states: how many the system has.
        parameters: how many it has.
        times: of predictions, the initial one first, in units of the whole.
    """

    def __init__(self, recipe: Recipe, *, states: int, parameters: int, times: Sequence[float]) -> None:
        super().__init__()
        self.states, self.times = states, tuple(times)
        self.encoded = recipe.encoding or recipe.kind == "direct"
        self.solver = solver_of(recipe)
        self.is_field = recipe.kind == "field"
        outputs = states if self.is_field else states * (len(self.times) - 1)
        self.network = perceptron(recipe, (states + parameters) * (2 if self.encoded else 1), outputs)

    def forward(self, inputs: Tensor, drive: Tensor | None = None) -> Tensor:
        """Predictions at all times.

        Args:
            inputs: initial states and parameters.
            drive: the 1 of [z, 1 - z], one number for each trajectory; given where its share is asked for.
        """
        drive = torch.ones_like(inputs[:, :1]) if drive is None else drive
        if not self.is_field:
            found: Tensor = self.network(self._encode(inputs, drive))
            return found
        states, parameters = inputs[:, : self.states], inputs[:, self.states :]
        reached = []
        for start, end in pairwise(self.times):
            states = self.advance(states, parameters, drive, end - start)
            reached.append(states)
        return torch.cat(reached, dim=1)

    def advance(self, states: Tensor, parameters: Tensor, drive: Tensor, lengths: Tensor | float) -> Tensor:
        """States so much later, along the field; each trajectory may have a time of its own."""

        def field(at: Tensor) -> Tensor:
            derivatives: Tensor = self.network(self._encode(torch.cat([at, parameters], dim=1), drive))
            return lengths * derivatives

        return self.solver.advance(field, states, 0.0, 1.0)

    def _encode(self, inputs: Tensor, drive: Tensor) -> Tensor:
        return torch.cat([inputs, drive - inputs], dim=1) if self.encoded else inputs


def solver_of(recipe: Recipe) -> AbstractSolver:
    """The solver of a recipe.

    Raises:
        RequestError: no such solver, or one that mixes trajectories.
    """
    offered = {"rtol": recipe.solver_tolerance, "atol": recipe.solver_tolerance, "steps": recipe.steps}
    taken = {field.name for field in fields(SOLVERS[recipe.solver])}
    solver = make_solver(recipe.solver, {name: value for name, value in offered.items() if name in taken})
    if solver.mixes_images:
        raise RequestError(
            f"solver {recipe.solver} chooses one step for all trajectories, so that a prediction depends on its "
            "neighbours: choose rk4, or torchode"
        )
    return solver
