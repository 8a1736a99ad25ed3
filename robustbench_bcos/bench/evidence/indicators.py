"""Indicators of attack failure (Pintor et al., 2022), read from the path an attack took.

Of their six, the first (no gradients) and the sixth (the unbounded attack fails) are checks of their own.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from robustbench_bcos.attacks.apgd import APGD
from robustbench_bcos.attacks.attack import Attack
from robustbench_bcos.attacks.losses import Loss
from robustbench_bcos.attacks.norms import AbstractNorm
from robustbench_bcos.attacks.pgd import PGD
from robustbench_bcos.core.prediction import predicted_classes
from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.core.types import Classifier, Flags, Images, Labels, PerImage

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


@dataclass(frozen=True)
class Path:
    """What an attack saw, from its first iterate to its last; no image leaves on the way."""

    logits: Tensor
    """(iterate, image, class)."""
    labels: Labels
    candidates: Images
    passes: int

    @classmethod
    def of(
        cls,
        attack: PGD | APGD,
        classifier: Classifier,
        images: Images,
        labels: Labels,
        ball: AbstractNorm,
        epsilon: float,
        generator: PerImageRng,
    ) -> "Path":
        """One restart of an attack, to its end, whatever it meets on the way."""
        recorder = _Recorder(classifier)
        whole = replace(attack, count="last", restarts=1)
        candidates, _ = whole(recorder, images, labels, ball, epsilon, generator)
        return cls(torch.stack(recorder.logits), labels, candidates, 2 * len(recorder.logits) - 1)

    def silent(self) -> Flags:
        """Indicator 3: the last iterate is classified correctly, though one before it was not."""
        wrong = torch.stack([predicted_classes(logits) != self.labels for logits in self.logits])
        return wrong[:-1].any(dim=0) & ~wrong[-1]

    def progress(self, loss: Loss) -> PerImage:
        """Indicator 4: how far the best loss rose over the last steps, as a share of the range of all losses."""
        losses = torch.stack([loss(logits.double(), self.labels).double() for logits in self.logits])
        best = losses.cummax(dim=0).values
        span = losses.amax(dim=0) - losses.amin(dim=0)
        late = best[-1] - best[max(0, len(best) - LAST)]
        return late / torch.where(span > 0, span, 1)

    def surrogate(self, classifier: Classifier) -> Flags:
        """Indicator 5: the model that is judged says something else of the last iterate than the one attacked."""
        with torch.no_grad():
            judged = predicted_classes(classifier(self.candidates))
        return judged != predicted_classes(self.logits[-1])


@torch.no_grad()
def instability(classifier: Classifier, images: Images, labels: Labels, loss: Loss, generator: PerImageRng) -> PerImage:
    """Indicator 2: mean relative change of the loss under small uniform noise, each cut off at 1."""
    before = loss(classifier(images).double(), labels).double()
    changes = []
    for draw in range(DRAWS):
        noise = torch.stack([torch.rand(images.shape[1:], generator=source) for source in generator(draw)])
        noisy = (images + (noise.to(images) - 0.5) * SPREAD).clamp(0, 1)
        after = loss(classifier(noisy).double(), labels).double()
        size = before.abs()
        changes.append(torch.where(size > 0, (after - before).abs() / size, 1).clamp(max=1))
    return torch.stack(changes).mean(dim=0)


def records(attack: Attack) -> bool:
    """Whether an attack has a path that can be read."""
    return isinstance(attack, PGD | APGD) and not (isinstance(attack, APGD) and attack.targets)


class _Recorder:
    """A classifier that keeps what it says."""

    def __init__(self, classifier: Classifier) -> None:
        self._classifier = classifier
        self.logits: list[Tensor] = []

    def __call__(self, images: Tensor) -> Tensor:
        logits = self._classifier(images)
        self.logits.append(logits.detach())
        return logits
