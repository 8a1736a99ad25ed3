"""What a cell attacks: images, the model that is judged, the copy that attacks query, and what a success is."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from robustbench_bcos.attacks.attack import Problem
from robustbench_bcos.attacks.criterion import AbstractCriterion, make_criterion
from robustbench_bcos.attacks.threat import Threat
from robustbench_bcos.bench.cells import Cell
from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.core.types import Goals, Images, Labels
from robustbench_bcos.model_zoo.classifier import ImageClassifier
from robustbench_bcos.model_zoo.models import Model


@dataclass(frozen=True, kw_only=True, eq=False)
class AttackTarget:
    """A batch of images of a cell, on the model's device, in the space that the cell attacks."""

    classifier: nn.Module
    """What the judge asks."""
    attack_model: nn.Module
    """What attacks query."""
    images: Images
    labels: Labels
    goals: Goals
    threat: Threat
    criterion: AbstractCriterion
    rng: PerImageRng

    def select(self, positions: Tensor) -> "AttackTarget":
        """Some of the images: they draw what they would have drawn among all."""
        return replace(
            self,
            images=self.images[positions],
            labels=self.labels[positions],
            goals=self.goals[positions],
            threat=self.threat.select(positions),
            rng=self.rng.select(positions.tolist()),
        )

    def repeated(self, times: int) -> "AttackTarget":
        """All images so many times over, each time with draws of their own."""
        positions = torch.arange(len(self.images), device=self.images.device)
        return replace(self.select(positions.repeat(times)), rng=self.rng.repeated(times))

    def within(self, threat: Threat) -> "AttackTarget":
        """The same under another threat."""
        return replace(self, threat=threat)

    def problem(self, batch_size: int) -> Problem:
        """What an attack is to solve, with images shown to the model so many at a time."""
        return Problem(
            classifier=self.attack_model,
            images=self.images,
            goals=self.goals,
            threat=self.threat,
            criterion=self.criterion,
            rng=self.rng,
            batch_size=batch_size,
        )

    @property
    def slow(self) -> "AttackTarget":
        """The same, where attacks query the judged model itself."""
        return replace(self, attack_model=self.classifier)


def make_target(
    model: Model, cell: Cell, images: Images, labels: Labels, *, seed: int, indices: Sequence[int]
) -> AttackTarget:
    """Images of a cell in the space that it attacks.

    Args:
        model: on the device of the images.
        cell: what is asked for.
        images: in [0, 1].
        labels: their classes.
        seed: of everything that is drawn.
        indices: positions of the images in the dataset, by which they draw.
    """
    classifier, attack_model, images = in_space(model, images, cell.space)
    criterion = make_criterion(cell.criterion)
    return AttackTarget(
        classifier=classifier,
        attack_model=attack_model,
        images=images,
        labels=labels,
        goals=criterion.goals(classifier, images, labels),
        threat=cell.threat,
        criterion=criterion,
        rng=PerImageRng.of(seed, indices),
    )


def in_space(model: Model, images: Images, space: str) -> tuple[nn.Module, nn.Module, Tensor]:
    """The classifier, its fast copy and images; in the encoded space the networks behind the encoding."""
    classifier, fast = model.classifier, model.attack_model
    if space != "encoded" or not isinstance(classifier, ImageClassifier):
        return classifier, fast, images
    network = fast.network if isinstance(fast, ImageClassifier) else classifier.network
    with torch.no_grad():
        return classifier.network, network, classifier.encoding(images)
