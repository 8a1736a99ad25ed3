"""Auto-PGD, and its form for norms whose steps move few pixels."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import final

from robustbench_bcos.attacks import ATTACKS
from robustbench_bcos.attacks.attack import Problem
from robustbench_bcos.attacks.driver import Evaluation, GradientAttack, Rows, State, check_search
from robustbench_bcos.attacks.loss import Loss
from robustbench_bcos.attacks.norm import broadcast, or_one, unblocked
from robustbench_bcos.attacks.threat import Threat
from robustbench_bcos.core.deferred import torch
from robustbench_bcos.core.types import Counts, Flags, Images, PerImage, Tensor

INITIAL_STEP = 2.0
"""Step size at the start, in units of epsilon."""

MOMENTUM = 0.75
"""Share of the new step; the rest repeats the previous move (alpha in the paper)."""

RHO = 0.75
"""Share of steps between two checkpoints that must raise the loss, or else the step size is halved."""

INITIAL_SHARE = 0.2
"""Share of the pixel values that a sparse step moves at the start."""

SPARSE_WINDOW = 0.04
"""Part of all steps between two checkpoints of a sparse search."""

REDUCTION = 1.5
"""At such a checkpoint a step comes to move this many times fewer values than the best iterate changes, and becomes
this many times shorter."""

SPARSER = 0.95
"""If the best iterate changes at most this part of the values it changed at the last checkpoint, a step is as long as
at the start instead."""

SHORTEST = 0.1
"""Shortest sparse step, in units of epsilon, which is its length at the start."""


@dataclass(frozen=True, kw_only=True)
class AutoPGD(GradientAttack):
    """Gradient ascent that finds its own step size (Croce & Hein, 2020, algorithm 1).

    Where progress stalls, the step is halved and the search goes back to its best iterate. All restarts begin at
    random, on the sphere of radius epsilon, as published.

    In a sparse norm such as l1 this is l1-APGD (Croce & Hein, 2021, algorithm 1), with the constants of the published
    code. A step moves the pixel values of the largest gradients equally far, without momentum. How many they are, and
    how far, is decided every 4 % of the steps: two thirds of those that the best iterate changes; and the step is as
    long as epsilon where these have become fewer, so that the search begins again at the best iterate, or else shorter.
    It starts from Gaussian noise, projected. Two things differ. A step leaves out the values that the pixel box blocks:
    it would move nothing where these have the largest gradients, as in black and white images. And AutoAttack's l1
    version spends 30 % of the steps each in balls of three and two times epsilon, which is left out here.

    Args:
        zero_index: compare the first loss with 0 instead of with the start's, as the published code does by an index
            of -1 into a table of zeros. A sparse search makes no such comparison.

    Raises:
        ValueError: steps or restarts below 1, or no such selection.
    """

    zero_index: bool = False

    def __post_init__(self) -> None:
        check_search(moves=self.steps, restarts=self.restarts, select=self.select)

    def random_start(self, problem: Problem, images: Images, sources: "Sequence[torch.Generator]") -> Images:
        """A draw of exactly the threat's radius, clipped to the pixel box; in a sparse norm, projected noise."""
        if problem.threat.geometry.sparse:
            noise = torch.stack([torch.randn(images.shape[1:], generator=source) for source in sources])
            return problem.threat.project(images, noise.to(images))
        return (images + problem.threat.sample_sphere(images.shape[1:], sources).to(images)).clamp(0, 1)

    def remember(self, problem: Problem, images: Images, sources: "Sequence[torch.Generator]") -> "Memory":
        """Nothing is known at the start."""
        if problem.threat.geometry.sparse:
            return SparseMemory.blank(images, problem.threat.radius)
        return DenseMemory.blank(images, problem.threat.radius)

    def step(self, problem: Problem, state: State, found: Evaluation) -> Images:
        """A step along the gradient from the present iterate, or from the best one."""
        memory = state.memory
        assert isinstance(memory, Memory)
        memory.update(state.iterates, found.losses, found.gradients)
        if isinstance(memory, SparseMemory):
            return self._sparse_step(problem.threat, state, memory, found)
        assert isinstance(memory, DenseMemory)
        return self._dense_step(problem.threat, state, memory, found)

    def _dense_step(self, threat: Threat, state: State, memory: "DenseMemory", found: Evaluation) -> Images:
        """A step of steepest ascent, and part of the previous move once more, each projected."""
        first = state.steps == 0
        memory.count(found.losses, first=first)
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

    def _sparse_step(self, threat: Threat, state: State, memory: "SparseMemory", found: Evaluation) -> Images:
        """A step in few pixel values, projected."""
        window = max(int(SPARSE_WINDOW * self.steps), 1)
        due = (state.steps > 0) & (state.steps % window == 0)
        iterates, gradients = memory.adapt(state.images, state.iterates, found.gradients, due, threat.radius)
        direction = signs_of_largest(unblocked(gradients, iterates), memory.moved)
        moved = iterates + broadcast(memory.step_sizes / or_one(threat.size(direction))) * direction
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
    moves_maps = True

    loss: Loss | str = "ce"

    def objective(self, problem: Problem) -> Loss:
        """The loss, as the criterion turns it."""
        return problem.objective(self.loss)


@dataclass
class Memory(Rows):
    """Where the search of each image stands."""

    best: Images
    best_gradients: Images
    best_losses: PerImage
    step_sizes: PerImage
    reached: PerImage
    """The best loss when a brief search last looked back."""

    def update(self, iterates: Images, losses: PerImage, gradients: Images) -> None:
        """Take over what was found at the present iterates."""
        better = losses > self.best_losses
        chosen = better[:, None, None, None]
        self.best = torch.where(chosen, iterates, self.best)
        self.best_gradients = torch.where(chosen, gradients, self.best_gradients)
        self.best_losses = torch.where(better, losses, self.best_losses)


@dataclass(kw_only=True)
class DenseMemory(Memory):
    """What a search with momentum needs to know besides."""

    previous: Images
    losses: PerImage
    """Of the previous iterate."""
    rises: Counts
    """Steps since the last checkpoint that raised the loss."""
    checked: PerImage
    """The best loss at the last checkpoint."""
    halved: Flags
    """Whether the step size was halved there."""

    @classmethod
    def blank(cls, images: Images, epsilon: float) -> "DenseMemory":
        """Before the first step."""
        nothing = torch.full((len(images),), -torch.inf, dtype=torch.float64, device=images.device)
        return cls(
            best=images,
            best_gradients=torch.zeros_like(images),
            best_losses=nothing,
            reached=nothing,
            step_sizes=torch.full_like(images[:, 0, 0, 0], INITIAL_STEP * epsilon),
            previous=images,
            losses=nothing,
            rises=torch.zeros(len(images), dtype=torch.long, device=images.device),
            checked=nothing,
            halved=torch.ones(len(images), dtype=torch.bool, device=images.device),
        )

    def count(self, losses: PerImage, *, first: Flags) -> None:
        """Note whether the last step raised the loss."""
        # The initial loss is the reference for progress; it does not count as an improvement.
        self.rises = torch.where(first, 0, self.rises + (losses > self.losses))
        self.losses = losses
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


@dataclass
class SparseMemory(Memory):
    """What a sparse search needs to know besides."""

    moved: Counts
    """Pixel values that a step moves."""
    changed: Counts
    """Pixel values that the best iterate changed at the last checkpoint."""

    @classmethod
    def blank(cls, images: Images, epsilon: float) -> "SparseMemory":
        """Before the first step."""
        values = torch.full((len(images),), images[0].numel(), device=images.device)
        nothing = torch.full_like(values, -torch.inf, dtype=torch.float64)
        return cls(
            best=images,
            best_gradients=torch.zeros_like(images),
            best_losses=nothing,
            reached=nothing,
            step_sizes=torch.full_like(images[:, 0, 0, 0], epsilon),
            moved=(INITIAL_SHARE * values).ceil().long(),
            changed=values,
        )

    def adapt(
        self, images: Images, iterates: Images, gradients: Images, due: Flags, epsilon: float
    ) -> tuple[Images, Images]:
        """At a checkpoint, choose the number of values and the step size by how sparse the best iterate has become.

        Args:
            images: the clean ones.
            iterates: the present ones.
            gradients: at them.
            due: whether this is a checkpoint.
            epsilon: the step size at the start.
        """
        changed = (self.best != images).flatten(1).sum(dim=1)
        sparser = due & (changed < SPARSER * self.changed)
        shorter = (self.step_sizes / REDUCTION).clamp(min=SHORTEST * epsilon)
        self.step_sizes = torch.where(due, torch.where(sparser, epsilon, shorter), self.step_sizes)
        self.moved = torch.where(due, (changed / REDUCTION).ceil().long().clamp(min=1), self.moved)
        self.changed = torch.where(due, changed, self.changed)
        back = sparser[:, None, None, None]
        return torch.where(back, self.best, iterates), torch.where(back, self.best_gradients, gradients)


def signs_of_largest(gradients: Images, numbers: Counts) -> Images:
    """Signs of the so many largest entries of each gradient, and of those that equal the last of them; 0 elsewhere."""
    sizes = gradients.flatten(1).abs()
    least = sizes.sort(dim=1, descending=True)[0].gather(1, numbers[:, None] - 1)
    return torch.where(sizes.view_as(gradients) >= broadcast(least[:, 0]), gradients.sign(), 0)


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
