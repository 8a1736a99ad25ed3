"""Training a forecaster: over a few points in time from true states where it is a field, else whole trajectories."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.rng import generator
from robustbench_bcos.dynamics import SYSTEMS
from robustbench_bcos.model_zoo.classifier import freeze
from robustbench_bcos.regression.data import Array, Scale, Trajectories
from robustbench_bcos.regression.models import Forecaster, initialise
from robustbench_bcos.regression.recipe import Recipe

BATCH = 256
"""States that are predicted in a step of training."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Trained:
    """A forecaster, and the ranges it was trained on."""

    recipe: Recipe
    model: Forecaster
    states: Scale
    parameters: Scale

    def inputs(self, data: Trajectories) -> Tensor:
        """Scaled initial states and parameters, (trajectory, state + parameter)."""
        parts = [self.states.scaled(data.states[:, 0]), self.parameters.scaled(data.parameters)]
        return torch.cat([as_tensor(part) for part in parts], dim=1)

    def truth(self, data: Trajectories) -> Tensor:
        """Scaled states at all times but the first, (trajectory, time * state)."""
        return as_tensor(self.states.scaled(data.states[:, 1:])).flatten(1)


def make_forecaster(recipe: Recipe, times: Array) -> Forecaster:
    """A forecaster, yet to be trained or loaded, for these points in time."""
    system = SYSTEMS[recipe.system]
    scaled = (times - times[0]) / (times[-1] - times[0])
    return Forecaster(recipe, states=len(system.states), parameters=len(system.parameters), times=scaled.tolist())


def train(
    recipe: Recipe, data: Trajectories, *, on_step: Callable[[int, float], None] = lambda step, loss: None
) -> Trained:
    """Minimise the mean square error of scaled states.

    A field is carried over ``rollout`` points from true states (teacher forcing), which are in one batch whatever their
    time.

    Args:
        recipe: what to train and how.
        data: to train on; ranges are theirs.
        on_step: called now and then with the number of the step and its loss.

    Raises:
        RequestError: the data are of another system, or the loss is not finite.
    """
    if data.system != recipe.system:
        raise RequestError(f"recipe {recipe.name} is of {recipe.system}, and the data of {data.system}: give its own")
    model = make_forecaster(recipe, data.times)
    initialise(model, generator(recipe.seed))
    states, parameters = Scale.of(data.states), Scale.of(data.parameters)
    trained = Trained(recipe=recipe, model=model, states=states, parameters=parameters)
    optimiser = torch.optim.Adam(model.parameters(), lr=recipe.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, recipe.iterations)
    loss_of = _rollouts(trained, data) if recipe.kind == "field" else _whole(trained, data)
    for step in range(recipe.iterations):
        optimiser.zero_grad(set_to_none=True)
        loss = loss_of()
        if not bool(loss.isfinite()):
            raise RequestError(
                f"the loss of {recipe.name} is not finite at step {step}: take more solver steps, or a smaller rate"
            )
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 100 == 0 or step == recipe.iterations - 1:
            on_step(step, loss.item())
    freeze(model)
    return trained


def _rollouts(trained: Trained, data: Trajectories) -> Callable[[], Tensor]:
    """Loss of a field: from each true state, carried over the next points in time."""
    model = trained.model
    states = as_tensor(trained.states.scaled(data.states))
    over = min(trained.recipe.rollout, states.shape[1] - 1)
    # (trajectory * start, point, state); each interval is a time of 1 along a field that is as much slower.
    windows = states.unfold(1, over + 1, 1).transpose(2, 3).flatten(0, 1)
    lengths = torch.tensor(model.times).diff().unfold(0, over, 1).repeat(len(states), 1)
    each = as_tensor(trained.parameters.scaled(data.parameters)).repeat_interleave(states.shape[1] - over, dim=0)
    # In units of how far a state moves, so that slow systems are learned, too.
    size = states.diff(dim=1).square().mean().clamp(min=1e-12)
    random = generator(trained.recipe.seed, "batches")
    batch = min(max(1, BATCH // over), len(windows))

    def loss() -> Tensor:
        chosen = torch.randint(len(windows), (batch,), generator=random)
        reached, parameters, times = windows[chosen, 0], each[chosen], lengths[chosen]
        drive, errors = torch.ones_like(reached[:, :1]), []
        for point in range(over):
            reached = model.advance(reached, parameters, drive, times[:, point : point + 1])
            errors.append(reached - windows[chosen, point + 1])
        return torch.stack(errors).square().mean() / size

    return loss


def _whole(trained: Trained, data: Trajectories) -> Callable[[], Tensor]:
    inputs, truth = trained.inputs(data), trained.truth(data)
    return lambda: (trained.model(inputs) - truth).square().mean()


def as_tensor(values: Array) -> Tensor:
    """In the precision of networks."""
    return torch.from_numpy(values).float()
