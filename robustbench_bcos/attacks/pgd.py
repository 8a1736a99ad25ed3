"""Projected gradient ascent (Madry et al., 2018): one loop for every norm, loss and way of counting."""

import itertools
import math
from dataclasses import dataclass
from functools import partial
from typing import cast, final

import torch
from torch import Tensor

from robustbench_bcos.attacks.attack import AttackResult, check_epsilon
from robustbench_bcos.attacks.gradients import usable_gradient
from robustbench_bcos.attacks.losses import Loss, ce
from robustbench_bcos.attacks.norms import AbstractNorm
from robustbench_bcos.attacks.restarts import ActiveState, SearchState, check_search, search_repeatedly
from robustbench_bcos.core.prediction import predicted_classes
from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.core.selection import Count, Start
from robustbench_bcos.core.types import Classifier, Counts, Epsilon, Flags, Images, Labels, Logits, PerImage

RELATIVE_STEP = 2.5
"""Default step size is this times epsilon / steps (Madry et al., 2018, and MadryLab's ``robustness``)."""

SETTLED_EVERY = {"cpu": 1}
"""Steps from one look at who has fallen to the next, by kind of device."""

SETTLED_EVERY_ON_A_GPU = 4
"""The same where the answer has to be waited for: what fell walks on meanwhile, which costs less than the waiting."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class PGD:
    """Take ``steps`` steps of steepest ascent, each projected onto the ball and then onto the pixel box.

    One step of size epsilon is FGSM. An image has fallen once a restart's candidate is misclassified, and is not
    attacked by further restarts.

    Args:
        steps: gradient steps; steps + 1 iterates are looked at, the start included.
        step_size: in units of the pixel range; ``None`` is 2.5 * epsilon / steps.
        loss: what is ascended.
        start: where the first restart begins; further ones begin at random, since they would repeat it otherwise.
        restarts: how often the search is run at most.
        count: which iterate is the candidate. ``any``: the first that is misclassified, and a fallen image leaves
            the batch; ``last``: the final one; ``best-loss``: the one of highest loss, as MadryLab reports.
        width: images that are walked on together, all of them by default. Whenever some leave, the next ones take
            their places, so that the network is always asked about so many.

    Raises:
        ValueError: steps, restarts or width below 1, or a step size that is not positive.
    """

    steps: int
    step_size: float | None = None
    loss: Loss = ce
    start: Start = "image"
    restarts: int = 1
    count: Count = "any"
    width: int | None = None

    def __post_init__(self) -> None:
        check_search(self.steps, self.restarts, self.start, self.count)
        if self.step_size is not None and not 0 < self.step_size < math.inf:
            raise ValueError(f"expected a positive step size, got {self.step_size}")
        if self.width is not None and self.width < 1:
            raise ValueError(f"expected a width of at least 1, got {self.width}")

    def __call__(
        self,
        classifier: Classifier,
        images: Images,
        labels: Labels,
        ball: AbstractNorm,
        epsilon: Epsilon,
        generator: PerImageRng | None = None,
    ) -> AttackResult:
        """Search the ball around each image; without a generator, image i draws as index i of seed 0.

        Raises:
            ValueError: an epsilon that no ball has, or one for each image together with a random start.
        """
        check_epsilon(epsilon)
        if isinstance(epsilon, Tensor) and (self.start == "random" or self.restarts > 1):
            raise ValueError("expected one epsilon for all images where a search begins at random, got one for each")
        images = images.detach()
        search = _Search(self, classifier, images, labels, ball, epsilon)
        draw = partial(ball.sample, images.shape[1:], cast(float, epsilon))
        return search_repeatedly(search, restarts=self.restarts, start=self.start, draw=draw, generator=generator)


@dataclass
class _Pool(ActiveState):
    """The images that are walked on together, each at a step of its own."""

    places: Tensor
    """Which images of the call they are."""
    images: Images
    labels: Labels
    iterates: Images
    proposals: Images
    """What the way of counting has asked for so far."""
    fooled: Flags
    """Whether the proposal is misclassified."""
    steps: Counts
    """Taken so far."""
    best: PerImage
    """Highest loss so far."""


class _Search(SearchState):
    """The state of one call: what is proposed so far for each image."""

    def __init__(
        self, pgd: PGD, classifier: Classifier, images: Images, labels: Labels, ball: AbstractNorm, epsilon: Epsilon
    ) -> None:
        super().__init__(classifier, images, labels, ball)
        self.pgd = pgd
        self.epsilon = epsilon
        self.step_size = RELATIVE_STEP * epsilon / pgd.steps if pgd.step_size is None else pgd.step_size
        self.best = torch.full((len(images),), -torch.inf, dtype=torch.float64, device=images.device)
        self.settled_every = SETTLED_EVERY.get(images.device.type, SETTLED_EVERY_ON_A_GPU)

    @torch.enable_grad()
    def run(self, active: Tensor, starts: Images) -> None:
        """One restart, from these starts of the active images."""
        width = self.pgd.width or len(active)
        pool = self._pool(active[:width], starts[:width])
        entered = len(pool.places)
        # Turns at which somebody has taken all steps: known without asking the device.
        ends = {self.pgd.steps}
        for turn in itertools.count():
            over = pool.steps == self.pgd.steps
            settles = turn in ends or turn % self.settled_every == 0
            # Nobody steps from the last iterate.
            with torch.set_grad_enabled(not (settles and bool(over.all()))):
                pool.iterates = pool.iterates.detach().requires_grad_()
                logits = self.classifier(pool.iterates)
            wrong, leaving = self._look(pool, logits, over)
            if not (settles and leaving.all()):
                self._step(pool, logits, wrong, leaving)
            if not (settles and leaving.any()):
                continue
            self._settle(pool, leaving)
            if entered < len(active):
                following = slice(entered, entered + width - len(pool.places))
                pool.add(self._pool(active[following], starts[following]))
                entered = following.stop
                ends.add(turn + 1 + self.pgd.steps)
            if len(pool.places) == 0:
                return

    def _pool(self, places: Tensor, starts: Images) -> _Pool:
        return _Pool(
            places=places,
            images=self.images[places],
            labels=self.labels[places],
            iterates=starts,
            proposals=starts,
            fooled=torch.zeros_like(places, dtype=torch.bool),
            steps=torch.zeros_like(places),
            best=torch.full_like(places, -torch.inf, dtype=torch.float64),
        )

    def _look(self, pool: _Pool, logits: Logits, over: Flags) -> tuple[Flags, Flags]:
        """Take over the iterates that the way of counting asks for; say who is misclassified, and who is to leave."""
        # Who has fooled walks on until the pool is settled, and is neither looked at nor charged any more.
        gone = pool.fooled if self.pgd.count == "any" else torch.zeros_like(over)
        self.trace.forward_passes[pool.places] += ~gone
        logits, iterates = logits.detach(), pool.iterates.detach()
        wrong = predicted_classes(logits) != pool.labels
        if self.pgd.count == "best-loss":
            # In float64, because a saturated loss is a plateau in float32 and no iterate would be better than another.
            losses = self.pgd.loss(logits.double(), pool.labels).double()
            chosen = losses > pool.best
            pool.best = torch.where(chosen, losses, pool.best)
        else:
            chosen = (over | wrong) & ~gone if self.pgd.count == "any" else over
        pool.proposals = torch.where(chosen[:, None, None, None], iterates, pool.proposals)
        pool.fooled = torch.where(chosen, wrong, pool.fooled)
        return wrong, over | pool.fooled if self.pgd.count == "any" else over

    def _step(self, pool: _Pool, logits: Logits, wrong: Flags, leaving: Flags) -> None:
        gradient, blind = usable_gradient(self.pgd.loss, logits, pool.iterates, pool.labels)
        self.trace.degenerate_gradient[pool.places] |= blind & ~(wrong | leaving)
        # What leaves is passed back with its batch, but not charged for it: counts must not depend on the batch.
        self.trace.backward_passes[pool.places] += ~leaving
        iterates = pool.iterates.detach()
        direction = self.ball.ascend(gradient)
        if isinstance(self.step_size, Tensor):
            moved = iterates + self.step_size[pool.places].view(-1, 1, 1, 1) * direction
        else:
            moved = iterates + self.step_size * direction
        epsilon = self.epsilon[pool.places] if isinstance(self.epsilon, Tensor) else self.epsilon
        delta = self.ball.project(moved - pool.images, epsilon)
        # Clipping pixels moves them towards the image, so it cannot leave the ball.
        pool.iterates = (pool.images + delta).clamp(0, 1)
        pool.steps = pool.steps + 1

    def _settle(self, pool: _Pool, leaving: Flags) -> None:
        """Propose what was found for those whose search is at its end, and let them go."""
        written = leaving
        if self.pgd.count == "best-loss":
            # A restart that fools nobody counts only where its loss is higher than what was found before.
            written = leaving & (pool.fooled | (pool.best > self.best[pool.places]))
            self.best[pool.places] = torch.maximum(self.best[pool.places], pool.best)
        places = pool.places[written]
        self.candidates[places] = pool.proposals[written]
        self.fallen[places] = pool.fooled[written]
        pool.keep(~leaving)
