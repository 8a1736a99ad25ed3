"""What an attack did to a model's explanations, beside two controls that make the answer readable.

A clean image's map is compared with that of the attacked image, of random noise of exactly the same size, and of
another image of the same class. The attacked image is that of the full attack: all steps of every restart that was
needed, and of those the iterate of highest loss, not the first that crossed the boundary.
"""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robustbench_bcos.attacks.apgd import APGD
from robustbench_bcos.attacks.attack import Attack
from robustbench_bcos.attacks.norms import NORMS, AbstractNorm
from robustbench_bcos.attacks.pgd import PGD
from robustbench_bcos.bench.cells import Cell
from robustbench_bcos.bench.pictures import Array, View
from robustbench_bcos.bench.target import AttackTarget
from robustbench_bcos.bench.trial import try_images
from robustbench_bcos.core.prediction import predicted_classes
from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.core.selection import Count
from robustbench_bcos.core.types import Images, Labels, Logits, Maps, PerImage
from robustbench_bcos.explanations.colours import coloured
from robustbench_bcos.explanations.differences import MEASURES
from robustbench_bcos.explanations.explanation import Explanation, explain

COMPARISONS = ("attack", "noise", "other")
"""What a clean image's map is compared with."""

EXPLAINED_CLASSES = ("true", "predicted")
"""Of which class: the label on both sides, or on each side what is predicted there."""

COUNT: Count = "best-loss"
"""Which iterate of an attack is shown and explained."""

NOISE_STREAM = -1
"""Where an attack has the number of a restart, so that the control does not draw what a random start has drawn."""


class Seen(NamedTuple):
    """Images as a model sees them, with two maps of each."""

    images: Images
    logits: Logits
    true: Explanation
    predicted: Explanation

    @property
    def predictions(self) -> Labels:
        """The class of each, or ``NO_CLASS``."""
        return predicted_classes(self.logits)

    def maps(self, explained_class: str) -> Maps:
        """Contribution maps for the label, or for what is predicted."""
        return (self.true if explained_class == "true" else self.predicted).contributions


class Attacked(NamedTuple):
    """What an attack made of images."""

    candidates: Images
    sizes: PerImage
    """Norm of candidate - image."""


class Similarity(NamedTuple):
    """How far the maps of a batch moved, in one comparison for one class."""

    comparison: str
    explained_class: str
    changed: Labels
    """Whether the prediction is another than that of the clean image (0 or 1)."""
    values: dict[str, PerImage]
    """By measure."""


def see(model: nn.Module, images: Images, labels: Labels, method: str, generator: PerImageRng) -> Seen:
    """Explain each image for its label and for the class predicted."""
    with torch.no_grad():
        # Logits that are not finite have no class to explain; their maps are not finite either, and no measure is.
        predicted = predicted_classes(model(images)).clamp(min=0)
    both = explain(model, images, torch.stack([labels, predicted], dim=1), method, generator=generator)
    return Seen(images, both.logits, *(_target(both, column) for column in range(2)))


def attack_in_full(
    attack: Attack, threat: AttackTarget, labels: Labels, cell: Cell, generator: PerImageRng
) -> Attacked:
    """The attacked images that are explained, measured by the judge."""
    ball, epsilon = NORMS[cell.norm], cell.radius.value
    full = replace(attack, count=COUNT) if isinstance(attack, PGD | APGD) else attack
    tried = try_images(full, threat, labels, ball, epsilon, generator, subject=cell.key)
    return Attacked(tried.candidates, tried.verdicts.sizes)


def noise_of_size(images: Images, sizes: PerImage, ball: AbstractNorm, generator: PerImageRng) -> Images:
    """Images moved as far as asked in a random direction.

    A normal draw gives the direction: uniform over the sphere for l2, random signs for linf. Where a pixel would leave
    [0, 1] its move is mirrored: clipping would shorten it, and the control would be weaker than what it is compared
    with. Only moves of more than half the pixel range can still be clipped.
    """
    shape = images.shape[1:]
    draws = [torch.randn(shape, generator=source) for source in generator(NOISE_STREAM)]
    delta = ball.ascend(torch.stack(draws).to(images)) * sizes.to(images).view(-1, 1, 1, 1)
    outside = (images + delta < 0) | (images + delta > 1)
    return (images + torch.where(outside, -delta, delta)).clamp(0, 1)


def compare_explanations(clean: Seen, other: Seen, comparison: str) -> list[Similarity]:
    """All measures between the maps of two batches, for both classes."""
    changed = (clean.predictions != other.predictions).long()
    return [
        Similarity(
            comparison,
            explained_class,
            changed,
            {name: MEASURES[name](clean.maps(explained_class), other.maps(explained_class)) for name in MEASURES},
        )
        for explained_class in EXPLAINED_CLASSES
    ]


def views(seen: Seen, loss: str) -> list[View]:
    """What is to be looked at, one for each image; the explanation is of the class predicted.

    Args:
        seen: images and explanations; of an encoded image the first three channels are shown.
        loss: what the model was trained with, which decides what its probabilities are.
    """
    pictures = coloured(seen.predicted, seen.images)
    probabilities = seen.logits.sigmoid() if loss == "bce" else seen.logits.softmax(dim=1)
    predictions = seen.predictions
    confidences = probabilities.gather(1, predictions.clamp(min=0)[:, None])[:, 0]
    return [
        View(
            _array(seen.images[i, :3]),
            _array(pictures[i]),
            _array(seen.predicted.contributions[i]),
            int(predictions[i]),
            float(confidences[i]),
        )
        for i in range(len(seen.images))
    ]


def _target(both: Explanation, column: int) -> Explanation:
    weights = None if both.weights is None else both.weights[:, column]
    return Explanation(weights, both.contributions[:, column], both.logits, both.targets[:, column])


def _array(tensor: Tensor) -> Array:
    array: Array = tensor.detach().cpu().float().numpy()
    return array
