"""Adversarial examples as pictures hold them, in 256 levels: near ones that succeed, within the threat and judged."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustbench_bcos.attacks.gradients import usable_gradient
from robustbench_bcos.bench.judge import RELATIVE_TOLERANCE, allowed_sizes, judge, measured_sizes, rounding_of
from robustbench_bcos.bench.target import AttackTarget
from robustbench_bcos.core.prediction import NO_CLASS
from robustbench_bcos.core.types import Flags, Images, Labels

LEVELS = 255
"""Steps from black to white."""

SAME_LEVEL = 1e-6
"""Distance from a level that is no more than how float32 holds it."""

ROUNDS = 8
"""Roundings that are tried for an image, the nearest one included."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Rounded:
    """Images in 256 levels."""

    images: Images
    success: Flags
    """Whether an image is within the threat and the judge found that it succeeds."""
    predictions: Labels
    """Where it succeeds."""


def nearest_level(images: Images) -> Images:
    """Each pixel value as the nearest of 256 levels, to the bit as a reader of pictures computes it."""
    return (images * LEVELS).round() / LEVELS


class RoundingModel(nn.Module):
    """A model behind a rounding to 256 levels that lets gradients through."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the nearest picture."""
        still = images.detach()
        # To the bit a level, which adding a difference would not be.
        logits: Tensor = self.classifier(nearest_level(still) + (images - still))
        return logits


def towards(images: Images, adversarials: Images) -> Images:
    """Adversarial examples in 256 levels, no pixel value farther from the image than it was: within every threat.

    Where no level lies between the two, which is so only for images that are not in 256 levels, the image's value.
    """
    # A value that is a level already has been rounded when it was stored, and may lie on either side of it.
    nearest, levels = nearest_level(adversarials), adversarials * LEVELS
    between = torch.where(adversarials > images, levels.floor(), levels.ceil()) / LEVELS
    same = (nearest - adversarials).abs() < SAME_LEVEL
    low, high = torch.minimum(images, adversarials), torch.maximum(images, adversarials)
    return torch.where(same, nearest, between).clamp(low, high)


def round_successes(target: AttackTarget, adversarials: Images, *, subject: str, batch_size: int) -> Rounded:
    """Round adversarial examples to pictures that succeed, too.

    The nearest rounding comes first. Where it leaves the threat, or succeeds no longer, each pixel value goes up or
    down as the criterion's gradient says: up to where the threat ends, those first that gain most. The next round takes
    the gradient at the outcome.

    Args:
        target: what was attacked, in the space of images.
        adversarials: one for each of its images, within the threat.
        subject: named in an error.
        batch_size: images that a network is shown at a time.
    """
    images = nearest_level(adversarials)
    success, predictions = _judged(target, images, subject, batch_size)
    around = adversarials.clone()
    for _ in range(ROUNDS - 1):
        lost = (~success).nonzero().squeeze(1)
        if len(lost) == 0:
            break
        part = target.select(lost)
        images[lost] = _along_the_gradient(part, adversarials[lost], around[lost], batch_size)
        success[lost], predictions[lost] = _judged(part, images[lost], subject, batch_size)
        around[lost] = images[lost]
    return Rounded(images=images, success=success, predictions=predictions)


def _judged(target: AttackTarget, images: Images, subject: str, batch_size: int) -> tuple[Flags, Labels]:
    """Whether images are within the threat and successes, and what is predicted for those within it."""
    predictions = torch.full((len(images),), NO_CLASS, device=images.device)
    success = measured_sizes(target.threat, target.images, images) <= allowed_sizes(target.threat, images)
    inside = success.nonzero().squeeze(1)
    if len(inside):
        verdicts = judge(target.select(inside), images[inside], subject=f"{subject}, rounded", batch_size=batch_size)
        success[inside], predictions[inside] = verdicts.success, verdicts.predictions
    return success, predictions


def _along_the_gradient(target: AttackTarget, adversarials: Images, around: Images, batch_size: int) -> Images:
    """Each pixel value of the adversarial examples rounded up or down, within the threat where that is possible.

    Args:
        target: what was attacked.
        adversarials: what is rounded.
        around: where the gradient is taken.
        batch_size: images that the network is shown at a time.
    """
    down, up = ((adversarials * LEVELS).floor() / LEVELS, (adversarials * LEVELS).ceil() / LEVELS)
    below, above = ((level - target.images).abs() for level in (down, up))
    # The level nearer to the image: taking it everywhere gives the smallest perturbation of all choices.
    near, far = torch.where(below <= above, down, up), torch.where(below <= above, up, down)
    gains = ((far - near) * _gradient(target, around, batch_size)).flatten(1)
    # A single value may be too much for the threat, as it is in linf.
    alone = (far.double() - target.images.double()).abs() - rounding_of(far)
    limit = torch.as_tensor(target.threat.epsilon, dtype=torch.float64, device=alone.device).reshape(-1, 1)
    gains = gains.masked_fill(alone.flatten(1) > limit * (1 + RELATIVE_TOLERANCE), -torch.inf)
    order = gains.argsort(dim=1, descending=True, stable=True)
    ranks = order.argsort(dim=1, stable=True)
    # As many of the values that gain most as the threat allows: found by halving, since every further one adds to it.
    low, high = torch.zeros_like(ranks[:, 0]), (gains > 0).sum(dim=1)
    while bool((low < high).any()):
        middle = (low + high + 1) // 2
        tried = _with_first(near, far, ranks, middle)
        fits = measured_sizes(target.threat, target.images, tried) <= allowed_sizes(target.threat, tried)
        low, high = torch.where(fits, middle, low), torch.where(fits, high, middle - 1)
    return _with_first(near, far, ranks, low)


def _with_first(near: Images, far: Images, ranks: Tensor, numbers: Tensor) -> Images:
    """The far level for so many pixel values of each image, by rank, and the near one for the others."""
    return torch.where((ranks < numbers[:, None]).view_as(near), far, near)


def _gradient(target: AttackTarget, images: Images, batch_size: int) -> Images:
    """Of the criterion's own order of outputs."""
    found = []
    for part in torch.arange(len(images), device=images.device).split(batch_size):
        leaf = images[part].detach().requires_grad_()
        with torch.enable_grad():
            outputs = target.attack_model(leaf)
        found.append(usable_gradient(target.criterion.nearness, outputs, leaf, target.goals[part]).gradient)
    return torch.cat(found)
