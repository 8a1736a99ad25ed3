"""Attacks on the inputs of a forecaster: the initial state, the parameters, or both, within a threat."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from robustbench_bcos.attacks.attack import Problem
from robustbench_bcos.attacks.criterion import AbstractCriterion
from robustbench_bcos.attacks.loss import Loss
from robustbench_bcos.attacks.searches.pgd import PGD
from robustbench_bcos.attacks.threat import Threat
from robustbench_bcos.bench.judge import allowed_sizes, measured_sizes
from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.core.types import Flags, Goals, PerImage
from robustbench_bcos.dynamics import SYSTEMS
from robustbench_bcos.model_zoo.bcos.folding import fold
from robustbench_bcos.regression.data import Trajectories
from robustbench_bcos.regression.training import Trained

Cells = Sequence[tuple[float, str]]
"""Each with its epsilon, and which inputs may be moved."""


SEARCHED_TOGETHER = 512
"""Rows of a batch: what a field keeps of a longer one for its gradient takes gigabytes."""


@final
@dataclass(frozen=True)
class ErrorAbove(AbstractCriterion):
    """The root mean square error of a prediction is above a tolerance; goals are the true states.

    Attributes:
        tolerance: in units of the scaled outputs.
    """

    tolerance: float
    name = "error_above"
    loss = "mse"
    goals_are_labels = False

    def success(self, outputs: Tensor, goals: Goals) -> Flags:
        """Not within the tolerance; an output that is not finite is no prediction."""
        return ~(errors(outputs, goals) <= self.tolerance)

    def nearness(self, outputs: Tensor, goals: Goals) -> PerImage:
        """Error beyond the tolerance, in float64."""
        return errors(outputs.double(), goals.double()) - self.tolerance

    def correct(self, outputs: Tensor, labels: Tensor) -> Flags:
        """Within the tolerance."""
        return ~self.success(outputs, labels)

    def objective(self, loss: Loss | str) -> Loss:
        """The mean square error, whatever loss is named."""
        return lambda outputs, goals: (outputs - goals).square().mean(dim=1)

    def __str__(self) -> str:
        return f"error above {self.tolerance:g}"


def errors(outputs: Tensor, truth: Tensor) -> Tensor:
    """Root mean square error of each trajectory, over times and states."""
    return (outputs - truth).square().mean(dim=1).sqrt()


@dataclass(frozen=True, kw_only=True, eq=False)
class Attacked:
    """What an attack did to the inputs of each trajectory, and what followed."""

    inputs: Tensor
    """Attacked initial states and parameters, scaled; of several searches those of the largest error."""
    outputs: Tensor
    eligible: Flags
    """Right without an attack, so that it was attacked."""
    robust: Flags
    """Right without and with the attack."""
    stuck: Flags
    """Robust, and the gradient was 0 or not finite somewhere on the way."""


def attack(
    trained: Trained,
    data: Trajectories,
    *,
    norm: str,
    cells: Cells,
    tolerance: float,
    steps: int,
    among: Tensor | None = None,
    draws: Sequence[int | None] = (None,),
) -> list[Attacked]:
    """PGD on the error; judged afresh.

    All cells and starts share batches: a step of a field is hundreds of small operations, whose time hardly depends on
    how many trajectories they are done for. An input is an image of two rows: its values, and 1 where they may be
    moved. Perturbed inputs stay within [0, 1], which is the range of the training data.

    Args:
        trained: what is attacked.
        data: trajectories to be predicted.
        norm: how perturbations are measured.
        cells: each with its epsilon, in units of the range of each input, and its targets, ``initial``, ``parameters``
            or ``both``.
        tolerance: of the criterion.
        steps: of PGD.
        among: which trajectories to attack in each cell, of shape (cell, trajectory); by default all that are right.
        draws: where searches begin: each at the random perturbation of that number, ``None`` at the clean inputs.

    Raises:
        RequestError: no such norm.
    """
    criterion, clean, truth = ErrorAbove(tolerance), trained.inputs(data), trained.truth(data)
    with torch.no_grad():
        eligible = criterion.correct(trained.model(clean), truth)
    chosen = eligible.expand(len(cells), -1) if among is None else among & eligible
    inputs = clean.expand(len(draws), len(cells), -1, -1).clone()
    stuck = torch.zeros_like(chosen)
    if chosen.any():
        problem = _problem(trained, clean, truth, chosen, criterion=criterion, norm=norm, cells=cells, draws=draws)
        moved, trace = PGD(steps=steps).solve(problem)
        sizes = measured_sizes(problem.threat, problem.images, moved)
        if not bool((sizes <= allowed_sizes(problem.threat, moved)).all()):
            raise AssertionError(f"an attack left {norm}")
        # Added to the inputs as they are, those outside the range, too.
        inputs[:, chosen] += (moved - problem.images)[:, 0, 0].unflatten(0, (len(draws), -1))
        stuck[chosen] = trace.degenerate_gradient.unflatten(0, (len(draws), -1)).any(dim=0)
    found = []
    for number, (tried, met) in enumerate(zip(chosen, stuck, strict=True)):
        attacked = _furthest(trained, truth, inputs[:, number])
        with torch.no_grad():
            outputs = trained.model(attacked)
        robust = tried & criterion.correct(outputs, truth)
        found.append(Attacked(inputs=attacked, outputs=outputs, eligible=eligible, robust=robust, stuck=robust & met))
    return found


def _furthest(trained: Trained, truth: Tensor, inputs: Tensor) -> Tensor:
    """Of several inputs (search, trajectory, input) of each trajectory those of the largest error; NaN is larger."""
    if len(inputs) == 1:
        return inputs[0]
    with torch.no_grad():
        outputs = trained.model(inputs.flatten(0, 1)).unflatten(0, inputs.shape[:2])
    made = torch.stack([errors(one, truth) for one in outputs]).nan_to_num(torch.inf)
    return inputs[made.argmax(dim=0), torch.arange(len(truth))]


def _problem(
    trained: Trained,
    clean: Tensor,
    truth: Tensor,
    chosen: Tensor,
    *,
    criterion: ErrorAbove,
    norm: str,
    cells: Cells,
    draws: Sequence[int | None],
) -> Problem:
    """All searches at once: from each start, each chosen trajectory with the epsilon and the targets of its cell."""
    model = fold(trained.model)

    def classifier(images: Tensor) -> Tensor:
        values, may_move = images.flatten(1).chunk(2, dim=1)
        # Without a gradient a value is not moved.
        outputs: Tensor = model(torch.where(may_move.detach() > 0, values, values.detach()))
        return outputs

    numbers, positions = chosen.nonzero(as_tuple=True)
    free = torch.stack([free_inputs(model.states, clean.shape[1], targets) for _, targets in cells])[numbers]
    # Inputs outside the range are brought to its border for the search: the pixel box is [0, 1].
    start = torch.stack([clean[positions].clamp(0, 1), free.float()], dim=1)[:, None]
    epsilons = torch.tensor([eps for eps, _ in cells])[numbers]
    # Perturbations of a part of the inputs are within the threat as well.
    may_move = torch.stack([free, torch.zeros_like(free)], dim=1)[:, None]
    rng, unit = PerImageRng.of(0, positions), Threat.of(norm, 1.0)

    def begun(draw: int | None) -> Tensor:
        if draw is None:
            return start
        moves = unit.sample(start.shape[1:], rng.fold_in("starts")(draw))
        return (start + epsilons[:, None, None, None] * moves * may_move).clamp(0, 1)

    return Problem(
        classifier=classifier,
        images=start.repeat(len(draws), 1, 1, 1),
        goals=truth[positions].repeat(len(draws), 1),
        threat=Threat.of(norm, epsilons.repeat(len(draws))),
        criterion=criterion,
        rng=PerImageRng.of(0, positions.repeat(len(draws))),
        batch_size=SEARCHED_TOGETHER,
        starts=torch.cat([begun(draw) for draw in draws]),
    )


def robust_to_noise(
    trained: Trained, data: Trajectories, *, norm: str, eps: float, targets: str, tolerance: float, draws: int
) -> Flags:
    """Trajectories that stay right under random perturbations of the size of a threat, or were not.

    Args:
        trained: what is asked.
        data: trajectories to be predicted.
        norm: how perturbations are measured.
        eps: their largest size.
        targets: which inputs they move.
        tolerance: of the criterion.
        draws: perturbations of each trajectory.
    """
    clean, truth, criterion = trained.inputs(data), trained.truth(data), ErrorAbove(tolerance)
    free = free_inputs(trained.model.states, clean.shape[1], targets)
    threat, rng = Threat.of(norm, eps), PerImageRng.of(0, range(len(data))).fold_in("noise")
    start = clean.clamp(0, 1)[:, free][:, None, None]
    robust = torch.ones(len(data), dtype=torch.bool)
    at_once = max(1, SEARCHED_TOGETHER // len(data))
    for first in range(0, draws, at_once):
        numbers = range(first, min(first + at_once, draws))
        moves = [threat.project(start, threat.sample(start.shape[1:], rng(draw))) - start for draw in numbers]
        inputs = clean.repeat(len(numbers), 1)
        inputs[:, free] += torch.cat(moves)[:, 0, 0]
        with torch.no_grad():
            right = criterion.correct(trained.model(inputs), truth.repeat(len(numbers), 1))
        robust &= right.unflatten(0, (len(numbers), -1)).all(dim=0)
    return robust


def free_inputs(states: int, inputs: int, targets: str) -> Tensor:
    """Which inputs an attack may move."""
    is_state = torch.arange(inputs) < states
    return {"initial": is_state, "parameters": ~is_state, "both": torch.ones_like(is_state)}[targets]


def true_response(trained: Trained, data: Trajectories, inputs: Tensor) -> Tensor:
    """How far the system itself moves when its inputs are perturbed so: the error that a perfect model would make.

    Gives the root mean square distance of each trajectory, scaled.
    """
    system = SYSTEMS[data.system]
    count = trained.model.states
    initial = trained.states.original(inputs[:, :count].double().numpy())
    parameters = trained.parameters.original(inputs[:, count:].double().numpy())
    times = data.times.tolist()
    pairs = zip(initial.tolist(), parameters.tolist(), strict=True)
    found = np.stack([system.solve(one, times, values)[1:] for one, values in pairs])
    distance = trained.states.scaled(found) - trained.states.scaled(data.states[:, 1:])
    return torch.from_numpy(np.sqrt(np.square(distance).mean(axis=(1, 2))))


@dataclass(frozen=True, kw_only=True)
class Scores:
    """How good predictions are, over all trajectories."""

    mse: float
    """In units of each state's range in the training data."""
    relative_error: float
    """Norm of the error over that of the truth, the mean over trajectories, scaled."""
    r2: float
    """1 less the error's share of the variance of each state, the mean over states."""
    valid_time: float
    """Until the error first exceeds 0.4 of the states' spread, the mean over trajectories; in Lyapunov times where the
    system has them."""


VALID = 0.4
"""Error at which a prediction ends to be one, in units of the spread of the states, as is usual for Lorenz."""


def scores(outputs: Tensor, truth: Tensor, data: Trajectories) -> Scores:
    """Compare predictions with true states, both scaled and (trajectory, time * state)."""
    shape = (len(data), len(data.times) - 1, data.states.shape[2])
    found, true = outputs.double().view(shape), truth.double().view(shape)
    error = found - true
    variance = (true - true.mean(dim=(0, 1))).square().mean(dim=(0, 1))
    relative = error.flatten(1).norm(dim=1) / true.flatten(1).norm(dim=1)
    ratio = error.square().sum(dim=2).sqrt() / variance.sum().sqrt()
    return Scores(
        mse=error.square().mean().item(),
        relative_error=relative.mean().item(),
        r2=(1 - error.square().mean(dim=(0, 1)) / variance).mean().item(),
        valid_time=float(np.mean([_valid_time(row, data) for row in ratio.tolist()])),
    )


def _valid_time(ratios: Sequence[float], data: Trajectories) -> float:
    reached = data.times[0]
    for ratio, time in zip(ratios, data.times[1:], strict=True):
        if not ratio <= VALID:
            break
        reached = time
    return float(reached - data.times[0]) * (SYSTEMS[data.system].lyapunov or 1.0)


def outside(trained: Trained, outputs: Tensor) -> Tensor:
    """How many predicted states of each trajectory lie outside the range of the training data: extrapolations."""
    return ((outputs < 0) | (outputs > 1) | ~outputs.isfinite()).sum(dim=1)
