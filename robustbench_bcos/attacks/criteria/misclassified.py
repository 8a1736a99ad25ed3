"""The untargeted criterion."""

from dataclasses import dataclass
from typing import final

from robustbench_bcos.attacks import CRITERIA
from robustbench_bcos.attacks.criterion import AbstractCriterion
from robustbench_bcos.attacks.losses.margin import margin
from robustbench_bcos.core.prediction import predicted_classes
from robustbench_bcos.core.types import Flags, Goals, PerImage, Tensor


@final
@CRITERIA.registered("misclassified")
@dataclass(frozen=True)
class Misclassified(AbstractCriterion):
    """Any class but the label; an output that is not finite is no class at all."""

    misclassifies = True

    def success(self, outputs: Tensor, goals: Goals) -> Flags:
        """Another class than the label is predicted."""
        return predicted_classes(outputs) != goals

    def nearness(self, outputs: Tensor, goals: Goals) -> PerImage:
        """The margin, in float64."""
        return margin(outputs.double(), goals)
