"""What an attack moves when the prediction is to stay: the map that explains it.

A classifier for such an attack gives more than logits: behind them, pixel by pixel, the contribution map of the class
that it predicts. The criterion then is a distance of maps, subject to the prediction being kept.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import prod
from typing import ClassVar, final

import torch
from torch import Tensor

from robustbench_bcos.attacks import FARTHEST, GOALS, goal_text
from robustbench_bcos.attacks.criterion import AbstractCriterion
from robustbench_bcos.attacks.loss import Loss
from robustbench_bcos.attacks.losses.margin import margin
from robustbench_bcos.core.prediction import predicted_classes
from robustbench_bcos.core.training_loss import TrainingLoss
from robustbench_bcos.core.types import Flags, Goals, Labels, Logits, Maps, PerImage

KNOWN = 2
"""Entries of a goal before the map it refers to: the class that is kept, and its confidence."""


class AbstractGoal(ABC):
    """A place that a map is to be moved to; it has no state."""

    name: ClassVar[str]
    elsewhere: ClassVar[str] = FARTHEST
    """Another goal, that a map is sent to where this one was not reached."""
    of_another: ClassVar[bool] = False
    """Whether it refers to the map of another image, and not to that of the clean one."""

    @abstractmethod
    def left(self, maps: Maps, references: Maps) -> PerImage:
        """What is left of the way, from 0 where nothing is to 1; it can be differentiated.

        The scale of a map must not count: a map that is only rescaled has not moved.
        """


@final
@dataclass(frozen=True, kw_only=True)
class MapCriterion(AbstractCriterion):
    """A goal for maps, while the prediction is kept.

    Outputs are logits and behind them a map; goals are rows of :func:`map_goals`. An output of another class is farther
    than any of the same class, and the nearer the smaller its margin. An attack never ends early: success is that
    nothing is left.

    Args:
        goal: its name.
        shape: height and width of a map.
        band: by how much the confidence in the class may differ from that in the clean image; ``None`` for no bound.
        trained_with: what the model was trained with, which decides what its confidences are.
    """

    name = "explanation"
    goals_are_labels = False

    goal: str
    shape: tuple[int, int]
    band: float | None = None
    trained_with: TrainingLoss = TrainingLoss.CE

    def success(self, outputs: Tensor, goals: Goals) -> Flags:
        """The prediction is kept and nothing is left of the way."""
        return self.nearness(outputs, goals) >= 0

    def nearness(self, outputs: Tensor, goals: Goals) -> PerImage:
        """Minus what is left, in [-1, 0]; -2 or less where the prediction is not kept, or the map is not finite."""
        logits, maps = self.split(outputs)
        left = GOALS[self.goal].left(maps, goals[:, KNOWN:].unflatten(1, self.shape))
        kept = self.kept(logits, goals) & left.isfinite()
        return torch.where(kept, -left, -2 - self._excess(logits, goals))

    def objective(self, loss: "Loss | str") -> Loss:
        """The same: no loss of logits says where a map is."""
        return self.nearness

    def logits(self, outputs: Tensor) -> Logits:
        """Without the map."""
        return self.split(outputs)[0]

    def kept(self, logits: Logits, goals: Goals) -> Flags:
        """Whether the class is the one predicted, with a confidence within the band."""
        kept = predicted_classes(logits) == goals[:, 0]
        return kept if self.band is None else kept & (self._drift(logits, goals) <= self.band)

    def split(self, outputs: Tensor) -> tuple[Logits, Maps]:
        """Logits, and the map behind them."""
        pixels = prod(self.shape)
        return outputs[:, :-pixels], outputs[:, -pixels:].unflatten(1, self.shape)

    def _excess(self, logits: Logits, goals: Goals) -> PerImage:
        """How far the logits are from being allowed; infinite where they are not finite."""
        excess = margin(logits.double(), goals[:, 0].long()).clamp(min=0)
        if self.band is not None:
            excess = excess + (self._drift(logits, goals) - self.band).clamp(min=0)
        return torch.where(logits.isfinite().all(dim=1), excess, torch.inf)

    def _drift(self, logits: Logits, goals: Goals) -> PerImage:
        return (self.trained_with.confidences(logits, goals[:, 0].long()) - goals[:, 1]).abs()

    def __str__(self) -> str:
        return goal_text(self.goal)


def keeps(nearness: PerImage) -> Flags:
    """Whether the prediction is kept, by the nearness of an output to its goal."""
    return nearness >= -1


def map_goals(classes: Labels, confidence: PerImage, references: Maps) -> Goals:
    """What success refers to: the class to be kept, the confidence in it, and a map."""
    return torch.cat([classes[:, None].double(), confidence[:, None].double(), references.double().flatten(1)], dim=1)
