"""The judge re-measures what attacks propose: range, size and prediction, with the unmodified model.

It measures every adversarial example again, in float64, and asks the unmodified classifier again. What an attack says
of its own success counts for nothing; an image outside the threat is an error and is never clipped.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from robustbench_bcos.attacks.threat import Threat
from robustbench_bcos.bench.target import AttackTarget
from robustbench_bcos.core.prediction import in_parts, predicted_classes
from robustbench_bcos.core.types import Flags, Images, Labels, Logits, PerImage

RELATIVE_TOLERANCE = 1e-6


class ThreatViolation(Exception):
    """An attack proposed something that its threat does not allow: a bug of the attack, not of the request."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Verdicts:
    """What the judge says of each image."""

    success: Flags
    """Whether the criterion is met."""
    predictions: Labels
    sizes: PerImage
    """Norm of the perturbation, measured in float64."""
    nearness: PerImage
    """How near the image is to success, by the criterion."""
    logits: Logits

    def select(self, positions: Tensor) -> "Verdicts":
        """Those of some of the images."""
        return Verdicts(**{field.name: getattr(self, field.name)[positions] for field in fields(self)})

    def replace(self, positions: Tensor, others: "Verdicts") -> None:
        """Take over what was said of some images later."""
        for field in fields(self):
            getattr(self, field.name)[positions] = getattr(others, field.name)


def judge(target: AttackTarget, adversarials: Images, *, subject: str, batch_size: int | None = None) -> Verdicts:
    """Measure and classify what an attack proposes.

    Args:
        target: what was attacked, with the model as it is.
        adversarials: one for each of its images.
        subject: named in an error.
        batch_size: images that the model is shown at a time, all by default.

    Raises:
        ThreatViolation: an image is not finite, leaves [0, 1], or is farther than epsilon.
    """
    threat, indices = target.threat, target.rng.indices
    sizes = measured_sizes(threat, target.images, adversarials)
    flat = adversarials.flatten(1)
    violations = {
        "is not finite": ~flat.isfinite().all(dim=1),
        "leaves [0, 1]": ((flat < 0) | (flat > 1)).any(dim=1),
        f"exceeds {threat}": ~(sizes <= allowed_sizes(threat, adversarials)),
    }
    for what, where in violations.items():
        if where.any():
            worst = int(where.nonzero()[0])
            raise ThreatViolation(
                f"{subject}: the adversarial example for image {indices[worst]} {what} "
                f"(size {float(sizes[worst]):.9g}; {int(where.sum())} of {len(indices)} images)"
            )
    with torch.no_grad():
        outputs = in_parts(target.classifier, batch_size or max(1, len(adversarials)))(adversarials)
    logits = target.criterion.logits(outputs)
    return Verdicts(
        success=target.criterion.success(outputs, target.goals),
        predictions=predicted_classes(logits),
        sizes=sizes,
        nearness=target.criterion.nearness(outputs, target.goals),
        logits=logits,
    )


def measured_sizes(threat: Threat, images: Images, adversarials: Images) -> PerImage:
    """Norm of each perturbation, in float64."""
    return threat.size(adversarials.double() - images.double())


def allowed_sizes(threat: Threat, adversarials: Images) -> PerImage:
    """How large each perturbation may be: epsilon, and what storing the pixels can have added to it."""
    return threat.epsilon * (1 + RELATIVE_TOLERANCE) + threat.size(rounding_of(adversarials))


def rounding_of(adversarials: Images) -> Images:
    """What storing each pixel can have changed: half the distance to the next number that can be stored (ADR 0002)."""
    following = adversarials.nextafter(torch.full_like(adversarials, torch.inf))
    return (following.double() - adversarials.double()) / 2
