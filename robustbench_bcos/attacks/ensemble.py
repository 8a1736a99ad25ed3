"""Several attacks, one after another: what one leaves standing is the next one's."""

from dataclasses import dataclass
from typing import final

import torch

from robustbench_bcos.attacks.apgd import APGD
from robustbench_bcos.attacks.attack import Attack, AttackResult, Trace, check_epsilon
from robustbench_bcos.attacks.fab import FAB
from robustbench_bcos.attacks.norms import AbstractNorm
from robustbench_bcos.attacks.square import Square
from robustbench_bcos.core.prediction import predicted_classes
from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.core.types import Classifier, Images, Labels


@final
@dataclass(frozen=True, slots=True)
class Ensemble:
    """Attack with each member what the members before it did not fool.

    Between two members every candidate of the first is classified once more, to see what still stands. An image that
    resists them all keeps the last one's candidate. Member i draws from part i of the generator.

    Args:
        members: the cheap ones first.

    Raises:
        ValueError: there are none.
    """

    members: tuple[Attack, ...]

    def __post_init__(self) -> None:
        if not self.members:
            raise ValueError("expected at least one member, got none")

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
        generator = generator or PerImageRng.of(0, range(len(images)))
        candidates = images.clone()
        trace = Trace.blank(images)
        active = torch.arange(len(images), device=images.device)
        for number, member in enumerate(self.members):
            if number > 0:
                with torch.no_grad():
                    right = predicted_classes(classifier(candidates[active])) == labels[active]
                trace.forward_passes[active] += 1
                active = active[right]
            if len(active) == 0:
                break
            source = generator.fold_in(number).select(active.tolist())
            proposal = member(classifier, images[active], labels[active], ball, epsilon, source)
            candidates[active] = proposal.candidates
            trace.include(proposal.trace, active)
        return AttackResult(candidates, trace)


def standard(*, fab: bool = True) -> Ensemble:
    """The standard version of AutoAttack (Croce & Hein, 2020), with its published numbers of steps and queries.

    Args:
        fab: whether FAB is among them, which needs torchattacks.
    """
    return Ensemble((APGD(steps=100), APGD(steps=100, targets=9), *((FAB(),) if fab else ()), Square(queries=5000)))
