"""Another map for the same prediction: attacks on explanations, and what the judge lets count.

An attack proposes; the judge asks the model itself, and asks it again as a file of 256 levels holds the picture. A
picture whose class is another one, either time, is no candidate. Where rounding costs the class, the search's own
perturbation is tried at three quarters of its length, at a half and at a quarter.
"""

from dataclasses import dataclass, replace

import torch

from robustbench_bcos.attacks import GOALS
from robustbench_bcos.attacks.attack import AbstractAttack, Trace
from robustbench_bcos.attacks.goal import MapCriterion, keeps, map_goals
from robustbench_bcos.attacks.threat import Threat
from robustbench_bcos.bench.judge import judge
from robustbench_bcos.bench.rounding import nearest_level, towards
from robustbench_bcos.bench.target import AttackTarget
from robustbench_bcos.core.prediction import in_parts
from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.core.types import Flags, Images, Labels, PerImage
from robustbench_bcos.explanations.attachment import Explained
from robustbench_bcos.model_zoo.models import Model

LENGTHS = (1.0, 0.75, 0.5, 0.25)
"""Parts of a perturbation that are tried, the longest first."""

STREAM = "explanation"
"""Attacks on maps draw other starts than those on predictions."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Fooled:
    """Pictures with the same prediction and another map, as far as any was found."""

    pictures: Images
    """In 256 levels where the clean ones are; the clean image where there is no candidate."""
    kept: Flags
    """Whether there is a candidate: the prediction is kept, as it is and in 256 levels."""
    left: PerImage
    """What is left of the way to the goal, from 0 to 1; 1 or less for the clean image, too."""
    trace: Trace


@dataclass(frozen=True, kw_only=True)
class Fooling:
    """What is asked of a model's maps.

    Args:
        model: on the device of the images.
        method: of explanation.
        softened: whether softplus takes the place of its rectifiers.
        band: by how much the confidence may change; ``None`` for no bound.
        batch_size: images that the network is shown at a time.
    """

    model: Model
    method: str
    softened: bool
    band: float | None
    batch_size: int

    @torch.no_grad()
    def target(
        self, goal: str, threat: Threat, *, images: Images, labels: Labels, others: Images, rng: PerImageRng
    ) -> AttackTarget:
        """What is attacked.

        Args:
            goal: its name.
            threat: within which images may change.
            images: clean ones.
            labels: the classes predicted for them.
            others: images whose maps are those to be reached, for a goal that refers to them.
            rng: of the images.
        """
        explained = Explained(self.model.classifier, self.method, softened=self.softened)
        criterion = MapCriterion(
            goal=goal,
            shape=(images.shape[2], images.shape[3]),
            band=self.band,
            trained_with=self.model.trained_with,
        )
        asked = in_parts(explained, self.batch_size)
        logits, references = criterion.split(asked(images))
        confidence = self.model.trained_with.confidences(logits, labels)
        if GOALS[goal].of_another:
            _, references = criterion.split(asked(others))
        return AttackTarget(
            classifier=explained,
            attack_model=explained,
            images=images,
            labels=labels,
            goals=map_goals(labels, confidence, references),
            threat=threat,
            criterion=criterion,
            rng=rng.fold_in(STREAM),
        )

    def fool(
        self, attack: AbstractAttack, target: AttackTarget, *, subject: str, starts: Images | None = None
    ) -> Fooled:
        """Search for another map, and keep what keeps the prediction.

        Args:
            attack: whose best iterate counts.
            target: of :meth:`target`.
            subject: named in an error.
            starts: where it begins before it begins at random, such as adversarial examples; within the threat.
        """
        found = attack.for_maps.solve(replace(target.problem(self.batch_size), starts=starts))
        pictures, kept = target.images.clone(), torch.zeros_like(target.labels, dtype=torch.bool)
        left = judge(target, target.images, subject=subject, batch_size=self.batch_size).nearness.neg()
        for length in LENGTHS:
            missing = (~kept).nonzero().squeeze(1)
            if len(missing) == 0:
                break
            part = target.select(missing)
            reached = part.images + length * (found.adversarials[missing] - part.images)
            tried = towards(part.images, reached)
            verdicts = judge(part, tried, subject=subject, batch_size=self.batch_size)
            allowed = keeps(verdicts.nearness) & self._kept_in_a_file(part, tried)
            pictures[missing[allowed]], left[missing[allowed]] = tried[allowed], -verdicts.nearness[allowed]
            kept[missing[allowed]] = True
        return Fooled(pictures=pictures, kept=kept, left=left, trace=found.trace)

    @torch.no_grad()
    def _kept_in_a_file(self, target: AttackTarget, pictures: Images) -> Flags:
        """Whether the prediction is kept where each pixel value is the nearest of 256 levels."""
        outputs = in_parts(target.classifier, self.batch_size)(nearest_level(pictures))
        return keeps(target.criterion.nearness(outputs, target.goals))
