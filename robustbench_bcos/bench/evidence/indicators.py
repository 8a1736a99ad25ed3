"""Indicators of attack failure (Pintor et al., 2022), read from the path an attack took.

Of their six, the first (no gradients) and the sixth (the unbounded attack fails) are checks of their own.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from robustbench_bcos.attacks.criterion import AbstractCriterion
from robustbench_bcos.attacks.driver import GradientAttack
from robustbench_bcos.attacks.loss import Loss
from robustbench_bcos.bench.target import AttackTarget
from robustbench_bcos.core.prediction import predicted_classes
from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.core.types import Classifier, Flags, Goals, Images, PerImage

DRAWS = 100
"""Noisy copies of each image that the loss is compared on."""

SPREAD = 8 / 255
"""Width of their uniform noise."""

UNSTABLE = 0.1
"""Mean relative change of the loss under that noise above which it counts as unstable."""

LAST = 10
"""Steps at the end over which a finished search makes no progress."""

PROGRESS = 0.05
"""Share of the loss's whole way that counts as progress."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Path:
    """What an attack saw, from its first iterate to its last; no image leaves on the way."""

    logits: Tensor
    """(iterate, image, class)."""
    goals: Goals
    criterion: AbstractCriterion
    adversarials: Images
    passes: int

    @classmethod
    def of(
        cls,
        attack: GradientAttack,
        target: AttackTarget,
    ) -> "Path":
        """One restart of an attack, to its end, whatever it meets on the way."""
        recorder = _Recorder(target.classifier)
        whole = replace(attack, select="last", restarts=1)
        adversarials, _ = whole.solve(replace(target.problem(len(target.images)), classifier=recorder))
        return cls(
            logits=torch.stack(recorder.logits),
            goals=target.goals,
            criterion=target.criterion,
            adversarials=adversarials,
            passes=2 * len(recorder.logits) - 1,
        )

    def silent(self) -> Flags:
        """Indicator 3: the last iterate is no success, though one before it was."""
        success = torch.stack([self.criterion.success(logits, self.goals) for logits in self.logits])
        return success[:-1].any(dim=0) & ~success[-1]

    def progress(self, loss: Loss) -> PerImage:
        """Indicator 4: how far the best loss rose over the last steps, as a share of the range of all losses."""
        losses = torch.stack([loss(logits.double(), self.goals).double() for logits in self.logits])
        best = losses.cummax(dim=0).values
        span = losses.amax(dim=0) - losses.amin(dim=0)
        late = best[-1] - best[max(0, len(best) - LAST)]
        return late / torch.where(span > 0, span, 1)

    def surrogate(self, classifier: Classifier) -> Flags:
        """Indicator 5: the model that is judged says something else of the last iterate than the one attacked."""
        with torch.no_grad():
            judged = predicted_classes(classifier(self.adversarials))
        return judged != predicted_classes(self.logits[-1])


@torch.no_grad()
def instability(classifier: Classifier, images: Images, goals: Goals, loss: Loss, rng: PerImageRng) -> PerImage:
    """Indicator 2: mean relative change of the loss under small uniform noise, each cut off at 1."""
    before = loss(classifier(images).double(), goals).double()
    changes = []
    for draw in range(DRAWS):
        noise = torch.stack([torch.rand(images.shape[1:], generator=source) for source in rng(draw)])
        noisy = (images + (noise.to(images) - 0.5) * SPREAD).clamp(0, 1)
        after = loss(classifier(noisy).double(), goals).double()
        size = before.abs()
        changes.append(torch.where(size > 0, (after - before).abs() / size, 1).clamp(max=1))
    return torch.stack(changes).mean(dim=0)


class _Recorder:
    """A classifier that keeps what it says."""

    def __init__(self, classifier: Classifier) -> None:
        self._classifier = classifier
        self.logits: list[Tensor] = []

    def __call__(self, images: Tensor) -> Tensor:
        logits = self._classifier(images)
        self.logits.append(logits.detach())
        return logits
