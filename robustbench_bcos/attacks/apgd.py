"""Auto-PGD (Croce & Hein, 2020, algorithm 1): gradient ascent that finds its own step size."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import final

import torch
from torch import Tensor

from robustbench_bcos.attacks.attack import AttackResult, check_epsilon
from robustbench_bcos.attacks.gradients import usable_gradient
from robustbench_bcos.attacks.losses import Loss, ce, targeted_dlr
from robustbench_bcos.attacks.norms import AbstractNorm
from robustbench_bcos.attacks.restarts import ActiveState, SearchState, check_search, search_repeatedly
from robustbench_bcos.core.prediction import predicted_classes
from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.core.selection import Count, Start
from robustbench_bcos.core.types import Classifier, Counts, Flags, Images, Labels, PerImage

FIRST_STEP = 2.0
"""Step size at the start, in units of epsilon."""

MOMENTUM = 0.75
"""Share of the new step; the rest repeats the previous move."""

PROGRESS = 0.75
"""Share of steps between two checkpoints that must raise the loss, or else the step size is halved."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class APGD:
    """Take ``steps`` steps; where progress stalls, halve the step and go back to the best iterate.

    Args:
        steps: gradient steps; steps + 1 iterates are looked at, the start included.
        loss: what is ascended, unless there are targets.
        start: ``random`` is a draw of exactly the ball's radius, as published; ``image`` only serves comparisons.
        restarts: how often the search is run at most; all begin at random.
        count: as for :class:`~robustbench_bcos.attacks.pgd.PGD`.
        zero_index: compare the first loss with 0 instead of with the start's, as the published code does by an index
            of -1 into a table of zeros.
        targets: wrong classes aimed at one after another, those of the highest logits of the clean image first; 0 is
            untargeted. Towards each, the targeted DLR is ascended in searches of its own, ``restarts`` at most, on
            what still stands. Looking at the clean image costs a forward pass. More than there are means all.

    Raises:
        ValueError: steps or restarts below 1, targets below 0, or no such start or count.
    """

    steps: int = 100
    loss: Loss = ce
    start: Start = "random"
    restarts: int = 1
    count: Count = "any"
    zero_index: bool = False
    targets: int = 0

    def __post_init__(self) -> None:
        check_search(self.steps, self.restarts, self.start, self.count)
        if self.targets < 0:
            raise ValueError(f"expected targets of at least 0, got {self.targets}")

    def __call__(
        self,
        classifier: Classifier,
        images: Images,
        labels: Labels,
        ball: AbstractNorm,
        epsilon: float,
        generator: PerImageRng | None = None,
    ) -> AttackResult:
        """Search the ball around each image; without a generator, image i draws as index i of seed 0."""
        check_epsilon(epsilon)
        images = images.detach()
        search = _Search(self, classifier, images, labels, ball, epsilon)
        draw = partial(on_the_boundary, ball, images.shape[1:], epsilon)
        for number, aims in enumerate(search.likeliest_wrong_classes() if self.targets else [None]):
            search.aims = aims
            first = number * self.restarts
            search_repeatedly(
                search, restarts=self.restarts, start=self.start, draw=draw, generator=generator, first=first
            )
        return AttackResult(search.candidates, search.trace)


def on_the_boundary(
    ball: AbstractNorm, shape: torch.Size, epsilon: float, generators: Sequence[torch.Generator]
) -> Images:
    """Draws from the ball, lengthened to its radius."""
    draws = ball.sample(shape, epsilon, generators)
    sizes = ball.size(draws)
    return draws * (epsilon / torch.where(sizes > 0, sizes, 1)).view(-1, 1, 1, 1)


def checkpoints(steps: int) -> list[int]:
    """Numbers of steps after which progress is checked: windows of 22 % of the steps, shrinking by 3 % to 6 %."""
    window, smallest, shrink = (max(int(share * steps), 1) for share in (0.22, 0.06, 0.03))
    found, reached = [], window
    while reached <= steps:
        found.append(reached)
        window = max(window - shrink, smallest)
        reached += window
    return found


@dataclass
class _Walk(ActiveState):
    """Where a restart stands, for each image that is still attacked."""

    active: Tensor
    """Its position in the batch."""
    iterates: Images
    previous: Images
    gradients: Images
    losses: PerImage
    best: Images
    best_gradients: Images
    best_losses: PerImage
    step_sizes: PerImage
    rises: Counts
    """Steps since the last checkpoint that raised the loss."""
    checked: PerImage
    """The best loss at the last checkpoint."""
    halved: Flags
    """Whether the step size was halved there."""

    @classmethod
    def begin(cls, active: Tensor, starts: Images, step_size: float) -> "_Walk":
        """At the start, where nothing is known yet."""
        nothing = torch.full((len(active),), -torch.inf, dtype=torch.float64, device=starts.device)
        zeros = torch.zeros_like(starts)
        return cls(
            active=active,
            iterates=starts,
            previous=starts,
            gradients=zeros,
            losses=nothing,
            best=starts,
            best_gradients=zeros,
            best_losses=nothing,
            step_sizes=torch.full_like(starts[:, 0, 0, 0], step_size),
            rises=torch.zeros_like(active),
            checked=nothing,
            halved=torch.ones_like(active, dtype=torch.bool),
        )

    def take(self, losses: PerImage, gradients: Images) -> None:
        """What was found at the present iterates."""
        first = bool((self.best_losses == -torch.inf).all())
        better = losses > self.best_losses
        chosen = better.view(-1, 1, 1, 1)
        self.rises = self.rises + (losses > self.losses)
        self.losses, self.gradients = losses, gradients
        self.best = torch.where(chosen, self.iterates, self.best)
        self.best_gradients = torch.where(chosen, gradients, self.best_gradients)
        self.best_losses = torch.where(better, losses, self.best_losses)
        if first:
            # The start is where progress is counted from, and no progress itself.
            self.rises = torch.zeros_like(self.rises)
            self.checked = self.best_losses

    def check(self, steps: int) -> None:
        """Halve the step and return to the best iterate, where the loss rose too seldom or, twice, not at all."""
        stalled = self.rises <= PROGRESS * steps
        stalled |= ~self.halved & (self.checked >= self.best_losses)
        back = stalled.view(-1, 1, 1, 1)
        self.step_sizes = torch.where(stalled, self.step_sizes / 2, self.step_sizes)
        self.iterates = torch.where(back, self.best, self.iterates)
        self.gradients = torch.where(back, self.best_gradients, self.gradients)
        self.halved, self.checked = stalled, self.best_losses
        self.rises = torch.zeros_like(self.rises)


class _Search(SearchState):
    """The state of one call: what is proposed so far for each image."""

    def __init__(
        self, apgd: APGD, classifier: Classifier, images: Images, labels: Labels, ball: AbstractNorm, epsilon: float
    ) -> None:
        super().__init__(classifier, images, labels, ball)
        self.apgd = apgd
        self.epsilon = epsilon
        self.proposed = torch.full((len(images),), -torch.inf, dtype=torch.float64, device=images.device)
        self.aims: Labels | None = None
        """The wrong class that each image is moved towards, if any in particular."""

    @torch.no_grad()
    def likeliest_wrong_classes(self) -> Sequence[Labels]:
        """What to aim at, best first; every image has its own order."""
        logits = self.classifier(self.images)
        self.trace.forward_passes.add_(1)
        if self.apgd.count == "any":
            self.fallen = predicted_classes(logits) != self.labels
        wrong = logits.scatter(1, self.labels[:, None], -torch.inf)
        # A stable order: of equal logits, the same comes first in every batch.
        ranked = wrong.argsort(dim=1, descending=True, stable=True)
        return ranked[:, : min(self.apgd.targets, logits.shape[1] - 1)].unbind(dim=1)

    def run(self, active: Tensor, starts: Images) -> None:
        """One restart, from these iterates of the active images."""
        walk = _Walk.begin(active, starts, FIRST_STEP * self.epsilon)
        self._look(walk, last=False)
        if self.apgd.zero_index:
            walk.losses = torch.zeros_like(walk.losses)
        checks, since = checkpoints(self.apgd.steps), 0
        for step in range(1, self.apgd.steps + 1):
            if len(walk.active) == 0:
                return
            self._move(walk, momentum=MOMENTUM if step > 1 else 1.0)
            self._look(walk, last=step == self.apgd.steps)
            since += 1
            if step in checks:
                walk.check(since)
                since = 0

    def _move(self, walk: _Walk, *, momentum: float) -> None:
        """A step along the gradient, and part of the previous move once more, each projected."""
        images = self.images[walk.active]
        ahead = walk.iterates + walk.step_sizes.view(-1, 1, 1, 1) * self.ball.ascend(walk.gradients)
        ahead = self._project(ahead, images)
        inertia = walk.iterates - walk.previous
        moved = walk.iterates + (ahead - walk.iterates) * momentum + inertia * (1 - momentum)
        walk.previous, walk.iterates = walk.iterates, self._project(moved, images)

    def _project(self, moved: Images, images: Images) -> Images:
        return (images + self.ball.project(moved - images, self.epsilon)).clamp(0, 1)

    @torch.enable_grad()
    def _look(self, walk: _Walk, *, last: bool) -> None:
        """Classify the iterates; take over gradients, losses and candidates; let go of what has fallen."""
        iterates = walk.iterates.requires_grad_()
        labels = self.labels[walk.active]
        logits = self.classifier(iterates)
        self.trace.forward_passes[walk.active] += 1
        wrong = predicted_classes(logits.detach()) != labels
        leaving = wrong if self.apgd.count == "any" else torch.zeros_like(wrong)
        # In float64, because a saturated loss is a plateau in float32, on which no iterate is better than another.
        losses = self._loss(walk)(logits.detach().double(), labels).double()
        gradients = torch.zeros_like(walk.iterates)
        if not last and not leaving.all():
            gradients = self._gradient(walk, iterates, logits, wrong, leaving)
        walk.iterates = iterates.detach()
        self._propose(walk, wrong, losses, last=last)
        walk.take(losses, gradients)
        walk.keep(~leaving)

    def _gradient(self, walk: _Walk, iterates: Images, logits: Tensor, wrong: Flags, leaving: Flags) -> Images:
        gradients, blind = usable_gradient(self._loss(walk), logits, iterates, self.labels[walk.active])
        self.trace.backward_passes[walk.active[~leaving]] += 1
        self.trace.degenerate_gradient[walk.active] |= blind & ~wrong
        return gradients

    def _loss(self, walk: _Walk) -> Loss:
        """What is ascended for the images that are still attacked."""
        if self.aims is None:
            return self.apgd.loss
        return partial(targeted_dlr, targets=self.aims[walk.active])

    def _propose(self, walk: _Walk, wrong: Flags, losses: PerImage, *, last: bool) -> None:
        """Take over the iterates that the way of counting asks for."""
        if self.apgd.count == "best-loss":
            # Of all restarts; one that stands does not replace a better one.
            chosen = losses > self.proposed[walk.active]
            self.proposed[walk.active[chosen]] = losses[chosen]
        elif self.apgd.count == "any":
            chosen = wrong | last
        else:
            chosen = torch.full_like(wrong, last)
        self.candidates[walk.active[chosen]] = walk.iterates[chosen]
        self.fallen[walk.active[chosen]] = wrong[chosen]
