"""The class that a classifier predicts."""

from robustbench_bcos.core.deferred import torch
from robustbench_bcos.core.types import Classifier, Labels, Logits

NO_CLASS = -1
"""The prediction of a classifier whose logits are not all finite: no class, hence never the label."""


def in_parts(classifier: Classifier, width: int) -> Classifier:
    """The same classifier, applied to at most ``width`` images at a time."""
    return lambda images: torch.cat([classifier(part) for part in images.split(width)])


def predicted_classes(logits: Logits) -> Labels:
    """Index of the largest logit of each image, or ``NO_CLASS`` where a logit is NaN or infinite.

    ``argmax`` alone would call the position of a NaN a class.
    """
    return logits.argmax(dim=1).masked_fill(~logits.isfinite().all(dim=1), NO_CLASS)
