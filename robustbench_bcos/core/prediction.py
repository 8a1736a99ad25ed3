"""The class that a classifier predicts."""

from robustbench_bcos.core.deferred import torch
from robustbench_bcos.core.types import Classifier, Labels, Logits

SUMS_TO_ONE = 1e-4
"""How far the sum of a row of probabilities may be from 1."""

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


def are_probabilities(logits: Logits) -> bool:
    """Whether rows are what a softmax gives, or what is made of one number per image that a sigmoid gives."""
    rows = logits.double()
    softmax = ((rows >= 0) & (rows <= 1)).all(dim=1) & ((rows.sum(dim=1) - 1).abs() < SUMS_TO_ONE)
    return bool(softmax.all()) or are_of_one_probability(logits)


def are_of_one_probability(logits: Logits) -> bool:
    """Whether rows are made of one number per image that a sigmoid gives, so that none predicts the first class."""
    rows = logits.double()
    gaps = rows[:, 1] - rows[:, 0]
    sigmoid = (rows.sum(dim=1) == 0) & (gaps >= 0) & (gaps <= 1) & (rows.shape[1] == 2)
    # Zeros alone are what an untrained network gives.
    return bool(sigmoid.all() and (gaps > 0).any())
