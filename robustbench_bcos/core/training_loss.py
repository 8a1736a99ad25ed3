"""What a network was trained to minimise, which decides what its logits say."""

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from robustbench_bcos.core.types import Labels, Logits, PerImage


class TrainingLoss(StrEnum):
    """Losses that recipes and cards name."""

    CE = "ce"
    """Softmax cross-entropy."""
    BCE = "bce"
    """Binary cross-entropy, mean over classes."""
    BCE_OFF_LABEL = "bce_off_label"
    """The same with 1 / classes as the target of classes other than the label (Böhle et al., 2024)."""

    @property
    def attacked(self) -> str:
        """The attack loss that ``--loss auto`` stands for: off-label targets are nobody's goal."""
        return "ce" if self is TrainingLoss.CE else "bce"

    def confidences(self, logits: "Logits", classes: "Labels") -> "PerImage":
        """Probability of a class of each image, in float64, where a confidence below 1 does not round to 1.

        Of a binary loss it is that of the class by itself; otherwise probabilities sum to 1 over the classes.
        """
        exact = logits.double()
        probabilities = exact.softmax(dim=1) if self is TrainingLoss.CE else exact.sigmoid()
        return probabilities.gather(1, classes[:, None]).squeeze(1)
