"""Random noise: the attack that every other one must beat."""

from dataclasses import dataclass
from typing import final

import torch

from robustbench_bcos.attacks.attack import AttackResult, Trace, check_epsilon
from robustbench_bcos.attacks.norms import AbstractNorm
from robustbench_bcos.core.prediction import predicted_classes
from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.core.types import Classifier, Images, Labels


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Noise:
    """Draw uniformly from the ball, up to ``restarts`` times, and propose the first draw that is misclassified."""

    restarts: int = 1

    def __post_init__(self) -> None:
        if self.restarts < 1:
            raise ValueError(f"expected restarts of at least 1, got {self.restarts}")

    def __call__(
        self,
        classifier: Classifier,
        images: Images,
        labels: Labels,
        ball: AbstractNorm,
        epsilon: float,
        generator: PerImageRng | None = None,
    ) -> AttackResult:
        """Draw around each image; without a generator, image i draws as index i of seed 0."""
        check_epsilon(epsilon)
        images = images.detach()
        generator = generator or PerImageRng.of(0, range(len(images)))
        candidates = images.clone()
        trace = Trace.blank(images)
        active = torch.arange(len(images), device=images.device)
        for restart in range(self.restarts):
            noise = ball.sample(images.shape[1:], epsilon, generator(restart)).to(images)
            candidates[active] = (images[active] + noise[active]).clamp(0, 1)
            with torch.no_grad():
                wrong = predicted_classes(classifier(candidates[active])) != labels[active]
            trace.forward_passes[active] += 1
            active = active[~wrong]
            if len(active) == 0:
                break
        return AttackResult(candidates, trace)
