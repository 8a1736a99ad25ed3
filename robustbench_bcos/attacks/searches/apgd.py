"""Auto-PGD."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import final

import torch
from torch import Tensor

from robustbench_bcos.attacks import ATTACKS
from robustbench_bcos.attacks.attack import Problem
from robustbench_bcos.attacks.driver import Evaluation, GradientAttack, Rows, State, check_search
from robustbench_bcos.attacks.loss import Loss
from robustbench_bcos.attacks.norm import broadcast, or_one
from robustbench_bcos.attacks.threat import Threat
from robustbench_bcos.core.types import Counts, Flags, Images, PerImage

INITIAL_STEP = 2.0
"""Step size at the start, in units of epsilon."""

MOMENTUM = 0.75
"""Share of the new step; the rest repeats the previous move (alpha in the paper)."""

RHO = 0.75
"""Share of steps between two checkpoints that must raise the loss, or else the step size is halved."""


@dataclass(frozen=True, kw_only=True)
class AutoPGD(GradientAttack):
    """Gradient ascent that finds its own step size (Croce & Hein, 2020, algorithm 1).

    Where progress stalls, the step is halved and the search goes back to its best iterate. All restarts begin at
    random, on the sphere of radius epsilon, as published.

    Args:
        zero_index: compare the first loss with 0 instead of with the start's, as the published code does by an index
            of -1 into a table of zeros.

    Raises:
        ValueError: steps or restarts below 1, or no such selection.
    """

    zero_index: bool = False

    def __post_init__(self) -> None:
        check_search(moves=self.steps, restarts=self.restarts, select=self.select)

    def random_start(self, problem: Problem, images: Images, sources: Sequence[torch.Generator]) -> Images:
        """A draw of exactly the threat's radius, clipped to the pixel box."""
        return (images + on_the_sphere(problem.threat, images.shape[1:], sources).to(images)).clamp(0, 1)

    def remember(self, problem: Problem, images: Images, sources: Sequence[torch.Generator]) -> "Memory":
        """Nothing is known at the start."""
        nothing = torch.full((len(images),), -torch.inf, dtype=torch.float64, device=images.device)
        zeros = torch.zeros_like(images)
        return Memory(
            previous=images,
            best=images,
            best_gradients=zeros,
            best_losses=nothing,
            losses=nothing,
            step_sizes=torch.full_like(images[:, 0, 0, 0], INITIAL_STEP * problem.threat.radius),
            rises=torch.zeros(len(images), dtype=torch.long, device=images.device),
            checked=nothing,
            halved=torch.ones(len(images), dtype=torch.bool, device=images.device),
        )

    def step(self, problem: Problem, state: State, found: Evaluation) -> Images:
        """A step along the gradient, and part of the previous move once more, each projected."""
        threat, memory = problem.threat, state.memory
        assert isinstance(memory, Memory)
        first = state.steps == 0
        memory.update(state.iterates, found.losses, found.gradients, first=first)
        if self.zero_index:
            memory.losses = torch.where(first, 0, memory.losses)
        windows = checkpoint_windows(self.steps).to(state.steps.device)[state.steps]
        iterates, gradients = memory.adapt(state.iterates, found.gradients, windows)

        ahead = iterates + broadcast(memory.step_sizes) * threat.steepest_ascent(gradients, iterates)
        ahead = threat.project(state.images, ahead - state.images)
        momentum = broadcast(torch.where(first, 1.0, MOMENTUM).to(iterates))
        inertia = iterates - torch.where(first[:, None, None, None], iterates, memory.previous)
        moved = iterates + (ahead - iterates) * momentum + inertia * (1 - momentum)
        memory.previous = iterates
        return threat.project(state.images, moved - state.images)

    def stronger(self) -> "AutoPGD":
        """Four times the steps."""
        return replace(self, steps=4 * self.steps, select="first_success", restarts=1)

    def at_full_length(self, fewest_steps: int) -> "AutoPGD":
        """As many steps, but at least ``fewest_steps``."""
        return replace(self, steps=max(self.steps, fewest_steps), select="first_success")


@final
@ATTACKS.registered("apgd")
@dataclass(frozen=True, kw_only=True)
class APGD(AutoPGD):
    """Untargeted Auto-PGD.

    Args:
        loss: what is ascended, or its name.
    """

    has_path = True

    loss: Loss | str = "ce"

    def objective(self, problem: Problem) -> Loss:
        """The loss, as the criterion turns it."""
        return problem.objective(self.loss)


@dataclass
class Memory(Rows):
    """Where the search of each image stands."""

    previous: Images
    best: Images
    best_gradients: Images
    best_losses: PerImage
    losses: PerImage
    """Of the previous iterate."""
    step_sizes: PerImage
    rises: Counts
    """Steps since the last checkpoint that raised the loss."""
    checked: PerImage
    """The best loss at the last checkpoint."""
    halved: Flags
    """Whether the step size was halved there."""

    def update(self, iterates: Images, losses: PerImage, gradients: Images, *, first: Flags) -> None:
        """Take over what was found at the present iterates."""
        better = losses > self.best_losses
        chosen = better[:, None, None, None]
        # The initial loss is the reference for progress; it does not count as an improvement.
        self.rises = torch.where(first, 0, self.rises + (losses > self.losses))
        self.losses = losses
        self.best = torch.where(chosen, iterates, self.best)
        self.best_gradients = torch.where(chosen, gradients, self.best_gradients)
        self.best_losses = torch.where(better, losses, self.best_losses)
        self.checked = torch.where(first, self.best_losses, self.checked)

    def adapt(self, iterates: Images, gradients: Images, windows: Counts) -> tuple[Images, Images]:
        """At a checkpoint, halve the step and return to the best iterate where the loss rose too seldom.

        Args:
            iterates: the present ones.
            gradients: at them.
            windows: steps since the last checkpoint where this is one, 0 elsewhere.
        """
        due = windows > 0
        stalled = self.rises <= RHO * windows
        # The second condition of the paper: neither the step size nor the best loss changed since the last checkpoint.
        stalled |= ~self.halved & (self.checked >= self.best_losses)
        stalled &= due
        back = stalled[:, None, None, None]
        self.step_sizes = torch.where(stalled, self.step_sizes / 2, self.step_sizes)
        self.halved = torch.where(due, stalled, self.halved)
        self.checked = torch.where(due, self.best_losses, self.checked)
        self.rises = torch.where(due, 0, self.rises)
        return torch.where(back, self.best, iterates), torch.where(back, self.best_gradients, gradients)


def on_the_sphere(threat: Threat, shape: torch.Size, sources: Sequence[torch.Generator]) -> Images:
    """Draws from the ball, lengthened to its radius."""
    draws = threat.sample(shape, sources)
    return draws * broadcast(threat.radius / or_one(threat.size(draws)))


def checkpoints(steps: int) -> list[int]:
    """Numbers of steps after which progress is checked: windows of 22 % of the steps, shrinking by 3 % to 6 %."""
    window, smallest, shrink = (max(int(share * steps), 1) for share in (0.22, 0.06, 0.03))
    found, reached = [], window
    while reached <= steps:
        found.append(reached)
        window = max(window - shrink, smallest)
        reached += window
    return found


@cache
def checkpoint_windows(steps: int) -> Tensor:
    """By number of steps taken: steps since the last checkpoint where there is one now, 0 elsewhere."""
    windows = torch.zeros(steps + 1, dtype=torch.long)
    last = 0
    for reached in checkpoints(steps):
        windows[reached], last = reached - last, reached
    return windows
