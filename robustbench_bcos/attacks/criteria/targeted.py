"""The targeted criterion."""

from dataclasses import dataclass
from typing import final

from robustbench_bcos.attacks import CRITERIA
from robustbench_bcos.attacks.criterion import AbstractCriterion, logits_of
from robustbench_bcos.attacks.loss import Loss, resolve_loss
from robustbench_bcos.attacks.losses.margin import margin
from robustbench_bcos.core.deferred import torch
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.prediction import predicted_classes
from robustbench_bcos.core.types import Classifier, Flags, Goals, Images, Labels, Logits, PerImage, Tensor

LEAST_LIKELY = "least_likely"


@final
@CRITERIA.registered("targeted")
@dataclass(frozen=True)
class Targeted(AbstractCriterion):
    """One class that an image is to be turned into.

    Args:
        target: index of the class, or ``None`` for the one that the clean image's smallest logit names (Kurakin et
            al., 2017, section 3). Images of the target class itself are not attacked.
    """

    goals_are_labels = False
    misclassifies = True

    target: int | None = None

    @classmethod
    def parse(cls, argument: str) -> "Targeted":
        """From the index of a class, or ``least_likely``.

        Raises:
            RequestError: neither.
        """
        if argument.replace("-", "_") == LEAST_LIKELY:
            return cls()
        if not (argument.isascii() and argument.isdigit()):
            raise RequestError(f"target {argument!r} is not a class: give the number of one, or {LEAST_LIKELY}")
        return cls(int(argument))

    def check(self, classes: int) -> None:
        """Refuse a class that the model does not have."""
        if self.target is not None and self.target >= classes:
            raise RequestError(f"target {self.target} is not a class of this model: choose from 0 to {classes - 1}")

    def goals(self, classifier: Classifier, images: Images, labels: Labels) -> Goals:
        """The target of each image."""
        if self.target is not None:
            return torch.full_like(labels, self.target)
        # Of equal logits the first is taken, so that the batch does not matter; the label itself is never the target.
        return logits_of(classifier, images).scatter(1, labels[:, None], torch.inf).argmin(dim=1)

    def success(self, outputs: Tensor, goals: Goals) -> Flags:
        """The target is predicted.

        Raises:
            RequestError: the model has no such class.
        """
        self.check(outputs.shape[1])
        return predicted_classes(outputs) == goals

    def nearness(self, outputs: Tensor, goals: Goals) -> PerImage:
        """Target logit minus the best other logit, in float64; minus infinity where an output is not finite."""
        return (-margin(outputs.double(), goals)).masked_fill(~outputs.isfinite().all(dim=1), -torch.inf)

    def eligible(self, correct: Flags, labels: Labels, goals: Goals) -> Flags:
        """The model is right, and the label is not the target."""
        return correct & (labels != goals)

    def objective(self, loss: "Loss | str") -> Loss:
        """The loss of the target class, descended: it is smallest where the model is sure of the target."""
        descended = resolve_loss(loss)

        def negative(logits: Logits, targets: Labels) -> PerImage:
            return -descended(logits, targets)

        return negative

    def __str__(self) -> str:
        return f"{self.name}:{LEAST_LIKELY if self.target is None else self.target}"
