"""Projected gradient ascent (Madry et al., 2018): one loop for every norm, loss and way of counting."""

import math
from dataclasses import dataclass
from functools import partial
from typing import cast, final

import torch
from torch import Tensor

from robustbench_bcos.attacks.attack import Proposal, check_epsilon
from robustbench_bcos.attacks.balls import AbstractBall
from robustbench_bcos.attacks.losses import Loss, ce
from robustbench_bcos.attacks.restarts import SearchState, check_search, search_repeatedly
from robustbench_bcos.attacks.slope import usable_gradient
from robustbench_bcos.core.prediction import predicted_classes
from robustbench_bcos.core.search import Count, Start
from robustbench_bcos.core.seeding import ImageGenerator
from robustbench_bcos.core.types import Classifier, Epsilon, Flags, Images, Labels

RELATIVE_STEP = 2.5
"""Default step size is this times epsilon / steps (Madry et al., 2018, and MadryLab's ``robustness``)."""


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

    Raises:
        ValueError: steps or restarts below 1, or a step size that is not positive.
    """

    steps: int
    step_size: float | None = None
    loss: Loss = ce
    start: Start = "image"
    restarts: int = 1
    count: Count = "any"

    def __post_init__(self) -> None:
        check_search(self.steps, self.restarts, self.start, self.count)
        if self.step_size is not None and not 0 < self.step_size < math.inf:
            raise ValueError(f"expected a positive step size, got {self.step_size}")

    def __call__(
        self,
        classifier: Classifier,
        images: Images,
        labels: Labels,
        ball: AbstractBall,
        epsilon: Epsilon,
        generator: ImageGenerator | None = None,
    ) -> Proposal:
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


class _Search(SearchState):
    """The state of one call: what is proposed so far for each image."""

    def __init__(
        self, pgd: PGD, classifier: Classifier, images: Images, labels: Labels, ball: AbstractBall, epsilon: Epsilon
    ) -> None:
        super().__init__(classifier, images, labels, ball)
        self.pgd = pgd
        self.epsilon = epsilon
        self.step_size = RELATIVE_STEP * epsilon / pgd.steps if pgd.step_size is None else pgd.step_size
        self.best = torch.full((len(images),), -torch.inf, dtype=torch.float64, device=images.device)

    @torch.enable_grad()
    def run(self, active: Tensor, iterates: Images) -> None:
        """One restart, from these iterates of the active images."""
        best = torch.full((len(active),), -torch.inf, dtype=torch.float64, device=active.device)
        everyone, kept = active, self.candidates[active]
        # Gathered again only when some leave.
        images, labels = self.images[active], self.labels[active]
        for _ in range(self.pgd.steps):
            iterates.requires_grad_()
            logits = self.classifier(iterates)
            wrong = self._look(active, labels, iterates, logits, best)
            leaving = wrong if self.pgd.count == "any" else torch.zeros_like(wrong)
            if leaving.all():
                return
            gradient = self._gradient(active, labels, iterates, logits, wrong)
            # What leaves is passed back with its batch, but not charged for it: counts must not depend on the batch.
            self.trace.backward_passes[active[~leaving]] += 1
            iterates = self._step(active, images, iterates.detach(), gradient)
            if leaving.any():
                active, iterates = active[~leaving], iterates[~leaving]
                images, labels = images[~leaving], labels[~leaving]
        with torch.no_grad():
            self._look(active, labels, iterates, self.classifier(iterates), best, final=True)
        if self.pgd.count == "best-loss":
            # A restart that fools nobody counts only where its loss is higher than what was found before.
            worse = ~self.fallen[everyone] & (best <= self.best[everyone])
            self.candidates[everyone[worse]] = kept[worse]
            self.best[everyone] = torch.maximum(self.best[everyone], best)

    def _look(
        self, active: Tensor, labels: Labels, iterates: Images, logits: Tensor, best: Tensor, *, final: bool = False
    ) -> Flags:
        """Take over the iterates that the way of counting asks for; say which are misclassified."""
        self.trace.forward_passes[active] += 1
        logits, iterates = logits.detach(), iterates.detach()
        wrong = predicted_classes(logits) != labels
        if self.pgd.count == "best-loss":
            # In float64, because a saturated loss is a plateau in float32 and no iterate would be better than another.
            losses = self.pgd.loss(logits.double(), labels).double()
            chosen = losses > best
            best[chosen] = losses[chosen]
        elif self.pgd.count == "any":
            chosen = wrong | final
        else:
            chosen = torch.full_like(wrong, final)
        self.candidates[active[chosen]] = iterates[chosen]
        self.fallen[active[chosen]] = wrong[chosen]
        return wrong

    def _gradient(self, active: Tensor, labels: Labels, iterates: Images, logits: Tensor, wrong: Flags) -> Images:
        gradient, blind = usable_gradient(self.pgd.loss, logits, iterates, labels)
        self.trace.zero_gradient[active] |= blind & ~wrong
        return gradient

    def _step(self, active: Tensor, images: Images, iterates: Images, gradient: Images) -> Images:
        direction = self.ball.ascend(gradient)
        if isinstance(self.step_size, Tensor):
            moved = iterates + self.step_size[active].view(-1, 1, 1, 1) * direction
        else:
            moved = iterates + self.step_size * direction
        epsilon = self.epsilon[active] if isinstance(self.epsilon, Tensor) else self.epsilon
        delta = self.ball.project(moved - images, epsilon)
        # Clipping pixels moves them towards the image, so it cannot leave the ball.
        return (images + delta).clamp(0, 1)
