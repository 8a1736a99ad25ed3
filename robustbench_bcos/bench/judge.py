"""The attack proposes, the judge disposes.

It measures every candidate again, in float64, and asks the unmodified classifier again. What an attack says of its own
success counts for nothing; a candidate outside the threat is an error and is never clipped.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from robustbench_bcos.attacks.norms import AbstractNorm
from robustbench_bcos.core.prediction import predicted_classes
from robustbench_bcos.core.types import Classifier, Epsilon, Images, Labels, Logits, PerImage

RELATIVE_TOLERANCE = 1e-6


class ThreatViolation(Exception):
    """An attack proposed something that its threat does not allow: a bug of the attack, not of the request."""


class Verdicts(NamedTuple):
    """What the judge says of each candidate."""

    predictions: Labels
    sizes: PerImage
    """Norm of candidate - image, measured in float64."""
    logits: Logits
    """What the classifier says of each."""


def judge(
    classifier: Classifier,
    images: Images,
    candidates: Images,
    ball: AbstractNorm,
    epsilon: Epsilon,
    *,
    cell: str,
    indices: Sequence[int],
) -> Verdicts:
    """Measure and classify candidates.

    Args:
        classifier: the model as it is, without anything an attack may have done to it.
        images: what was attacked.
        candidates: what the attack proposes.
        ball: the norm of the threat.
        epsilon: its radius, or each image's.
        cell: named in an error.
        indices: dataset index of each image, named in an error.

    Raises:
        ThreatViolation: a candidate is not finite, leaves [0, 1], or is farther than epsilon.
    """
    sizes = ball.size(candidates.double() - images.double())
    allowed = epsilon * (1 + RELATIVE_TOLERANCE) + ball.size(_rounding(candidates))
    flat = candidates.flatten(1)
    violations = {
        "is not finite": ~flat.isfinite().all(dim=1),
        "leaves [0, 1]": ((flat < 0) | (flat > 1)).any(dim=1),
        f"exceeds {ball.name} radius {epsilon if isinstance(epsilon, float) else 'of its own'}": ~(sizes <= allowed),
    }
    for what, where in violations.items():
        if where.any():
            worst = int(where.nonzero()[0])
            raise ThreatViolation(
                f"{cell}: the candidate for image {indices[worst]} {what} (size {float(sizes[worst]):.9g}; "
                f"{int(where.sum())} of {len(indices)} candidates)"
            )
    with torch.no_grad():
        logits = classifier(candidates)
    return Verdicts(predicted_classes(logits), sizes, logits)


def _rounding(candidates: Images) -> Images:
    """What storing each pixel can have changed: half the distance to the next number that can be stored (ADR 0002)."""
    following = candidates.nextafter(torch.full_like(candidates, torch.inf))
    return (following.double() - candidates.double()) / 2
