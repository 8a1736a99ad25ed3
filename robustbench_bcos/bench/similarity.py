"""Similarity of explanations: what an attack did to them, next to two controls that make the number readable.

A clean image's map is compared with that of its adversarial example, of the image plus random noise of exactly the same
size, and of another image of the same class. The adversarial example is that of the full attack: all steps of every
restart that was needed, and of those the iterate of highest loss, not the first that crossed the boundary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustbench_bcos.attacks.threat import Threat
from robustbench_bcos.bench.pictures import Array, View
from robustbench_bcos.bench.rows import EXPLAINED_CLASSES
from robustbench_bcos.core.prediction import predicted_classes
from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.core.training_loss import TrainingLoss
from robustbench_bcos.core.types import Images, Labels, PerImage
from robustbench_bcos.explanations.colours import render, rgb
from robustbench_bcos.explanations.explanation import Explanation, explain
from robustbench_bcos.explanations.similarity import MEASURES

NOISE_STREAM = -1
"""In place of the number of a restart: the control must not repeat the draws of an attack's random start."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Similarity:
    """How similar the maps of a batch are, in one comparison for one class."""

    comparison: str
    explained_class: str
    changed: Labels
    """Whether the prediction is another than that of the clean image (0 or 1)."""
    values: dict[str, PerImage]
    """By measure."""


def explain_classes(model: nn.Module, images: Images, labels: Labels, method: str, rng: PerImageRng) -> Explanation:
    """Explain two targets of each image, in the order of ``EXPLAINED_CLASSES``: its label and the class predicted."""
    with torch.no_grad():
        # Logits that are not finite have no class to explain; their maps are not finite either, and no measure is.
        predicted = predicted_classes(model(images)).clamp(min=0)
    return explain(model, images, torch.stack([labels, predicted], dim=1), method, rng=rng)


def noise_of_size(images: Images, sizes: PerImage, threat: Threat, rng: PerImageRng) -> Images:
    """Images plus a perturbation of the given size in a random direction.

    A normal draw gives the direction: uniform over the sphere for l2, random signs for linf. Where a pixel would leave
    [0, 1] its change is mirrored: clipping would make the control weaker than the attack it is compared with. Only
    changes of more than half the pixel range can still be clipped.

    Args:
        images: clean, in [0, 1].
        sizes: norm of each perturbation.
        threat: whose norm they are measured in.
        rng: gives the directions.
    """
    shape = images.shape[1:]
    draws = [torch.randn(shape, generator=source) for source in rng(NOISE_STREAM)]
    perturbation = threat.geometry.direction(torch.stack(draws).to(images)) * sizes.to(images).view(-1, 1, 1, 1)
    outside = (images + perturbation < 0) | (images + perturbation > 1)
    return (images + torch.where(outside, -perturbation, perturbation)).clamp(0, 1)


def compare_explanations(clean: Explanation, other: Explanation, comparison: str) -> list[Similarity]:
    """All measures between the maps of two batches, both explained by :func:`explain_classes`, for both classes."""
    changed = (predicted_classes(clean.logits) != predicted_classes(other.logits)).long()
    similarities = []
    for position, explained_class in enumerate(EXPLAINED_CLASSES):
        maps = clean.contributions[:, position], other.contributions[:, position]
        values = {name: MEASURES[name](*maps) for name in MEASURES}
        similarities.append(
            Similarity(comparison=comparison, explained_class=explained_class, changed=changed, values=values)
        )
    return similarities


def make_views(images: Images, explanation: Explanation, trained_with: TrainingLoss) -> list[View]:
    """A view of each image, to be drawn.

    Args:
        images: what was explained; of encoded images the first three channels are kept, grey is repeated.
        explanation: of one target for each image.
        trained_with: by the model, which decides what its probabilities are.
    """
    logits = explanation.logits
    predictions = predicted_classes(logits)
    confidences = trained_with.confidences(logits, predictions.clamp(min=0))
    pictures, shown = render(explanation, images), rgb(images)
    return [
        View(
            pixels=_array(shown[i]),
            explanation=_array(pictures[i]),
            contributions=_array(explanation.contributions[i]),
            prediction=int(predictions[i]),
            confidence=float(confidences[i]),
        )
        for i in range(len(images))
    ]


def _array(tensor: Tensor) -> Array:
    array: Array = tensor.detach().cpu().float().numpy()
    return array
