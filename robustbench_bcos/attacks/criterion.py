"""When an output counts as a success of the attack, how near others are to it, and which images are attacked at all.

Nothing else compares predictions with labels. A criterion works on ``goals``, one row per image: what success refers
to, such as the true label or the class an image is to be turned into.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

from robustbench_bcos.attacks import CRITERIA, TARGETED, UNTARGETED
from robustbench_bcos.attacks.loss import Loss, resolve_loss
from robustbench_bcos.core.arrays import Array, read_labels
from robustbench_bcos.core.deferred import torch
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.prediction import predicted_classes
from robustbench_bcos.core.types import Classifier, Flags, Goals, Images, Labels, Logits, PerImage, Tensor


class AbstractCriterion(ABC):
    """A question put to each output. Instances are frozen and print as they are written: ``targeted:3``."""

    name: ClassVar[str]
    goals_are_labels: ClassVar[bool] = True
    """Whether success is any departure from the goals, which are the labels."""
    misclassifies: ClassVar[bool] = False
    """Whether, of an image about which the model is right, success means that another class is predicted."""

    @classmethod
    def parse(cls, argument: str) -> "AbstractCriterion":
        """The criterion with what was written behind its name and a colon; most take nothing.

        Raises:
            RequestError: there is an argument, and this criterion takes none.
        """
        if argument:
            raise RequestError(f"criterion {cls.name!r} takes no argument, got {argument!r}: leave it out")
        return cls()

    def check(self, classes: int) -> None:  # noqa: B027 (most criteria fit every model)
        """Refuse a number of outputs that the criterion does not fit.

        Raises:
            RequestError: with the remedy.
        """

    def goals(self, classifier: Classifier, images: Images, labels: Labels) -> Goals:
        """What success refers to, for each image; by default its label."""
        return labels

    @abstractmethod
    def success(self, outputs: Tensor, goals: Goals) -> Flags:
        """Whether the attack has reached its aim. An output that is not finite is judged, too."""

    @abstractmethod
    def nearness(self, outputs: Tensor, goals: Goals) -> PerImage:
        """How near an output is to success: positive only where it is one, larger is nearer."""

    def logits(self, outputs: Tensor) -> Logits:
        """The logits in an output; by default all of it."""
        return outputs

    def correct(self, outputs: Tensor, labels: Labels) -> Flags:
        """Whether the model is right about clean images; by default where it predicts the label."""
        return predicted_classes(outputs) == labels

    def eligible(self, correct: Flags, labels: Labels, goals: Goals) -> Flags:
        """Which clean images are worth an attack; by default those about which the model is right."""
        return correct

    def objective(self, loss: "Loss | str") -> Loss:
        """What an attack ascends to succeed, given a loss of outputs and classes."""
        return resolve_loss(loss)

    def __str__(self) -> str:
        return self.name


def make_criterion(text: "AbstractCriterion | str") -> AbstractCriterion:
    """The criterion of that name, with its argument behind a colon: ``misclassified``, ``targeted:3``.

    Raises:
        RequestError: no such criterion, or an argument that it does not take.
    """
    if isinstance(text, AbstractCriterion):
        return text
    name, _, argument = text.partition(":")
    return CRITERIA[name].parse(argument)


def aim(
    criterion: "AbstractCriterion | str", targets: "Array | str | int | None", count: int
) -> tuple[AbstractCriterion, Goals | None]:
    """The criterion of an attack, and what success refers to where that is said for each image.

    Args:
        criterion: as it is, or by name.
        targets: a class for all images or for each of them, or how one is chosen; ``None`` where there are none.
        count: of images.

    Raises:
        RequestError: targets that are no classes, or that stand beside a criterion which has none.
    """
    if targets is None:
        return make_criterion(criterion), None
    if str(criterion) not in (UNTARGETED, TARGETED):
        raise RequestError(f"targets and criterion {criterion} exclude each other: leave one of them out")
    if isinstance(targets, str | int) or _is_scalar(targets):
        return make_criterion(f"{TARGETED}:{targets if isinstance(targets, str | int) else targets.item()}"), None
    return CRITERIA[TARGETED](), read_labels(targets, count, name="targets")


def _is_scalar(value: Array) -> bool:
    """Whether it is a single number of NumPy or torch, such as the largest of some labels."""
    return getattr(value, "shape", None) == () and hasattr(value, "item")


def logits_of(classifier: Classifier, images: Images) -> Tensor:
    """Outputs for clean images, without a gradient."""
    with torch.no_grad():
        return classifier(images)
