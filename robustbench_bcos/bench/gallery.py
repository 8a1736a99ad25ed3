"""Images explained for the looking, outside of any run: with or without an attack, for any class."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from robustbench_bcos.bench.cells import Cell
from robustbench_bcos.bench.pictures import Picture
from robustbench_bcos.bench.similarity import Seen, attack_in_full, views
from robustbench_bcos.bench.target import AttackTarget, build_attack
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.prediction import predicted_classes
from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.core.types import Images, Labels
from robustbench_bcos.explanations.colours import coloured
from robustbench_bcos.explanations.explanation import Explanation, explain, method_for
from robustbench_bcos.model_zoo.models import Model

BATCH = 64


class Explained(NamedTuple):
    """A gallery's pictures, and the arrays behind them."""

    pictures: list[Picture]
    arrays: dict[str, npt.NDArray[np.generic]]
    """``images``, ``logits``, ``targets``, ``contributions``, ``pictures`` (RGBA), ``weights`` where the method has
    them; with the prefix ``attacked_`` those of the attacked images."""


@dataclass(frozen=True)
class Gallery:
    """Images to be explained.

    Args:
        model: what explains itself.
        images: RGB in [0, 1].
        indices: number of each, by which it draws its randomness.
        labels: their classes, where they are known; an attack on other images leads away from what is predicted.
        method: how to explain.
        target: the class to explain; by default what is predicted.
        cell: the attack, if there is one.
        seed: of everything drawn.
    """

    model: Model
    images: Images
    indices: tuple[int, ...]
    labels: Labels | None = None
    method: str = "auto"
    target: int | None = None
    cell: Cell | None = None
    seed: int = 0

    def explain(self) -> Explained:
        """Explain all images, batch by batch.

        Raises:
            RequestError: the method cannot serve the model, or there is no such class.
        """
        parts = [self._explain_batch(slice(start, start + BATCH)) for start in range(0, len(self.images), BATCH)]
        arrays = {name: np.concatenate([part.arrays[name] for part in parts]) for name in parts[0].arrays}
        return Explained([picture for part in parts for picture in part.pictures], arrays)

    def _explain_batch(self, part: slice) -> Explained:
        images, indices = self.images[part], self.indices[part]
        labels = None if self.labels is None else self.labels[part]
        generator = PerImageRng.of(self.seed, indices)
        clean = self._see(images, generator)
        known: list[int | None] = [None] * len(images) if labels is None else labels.tolist()
        arrays = _arrays(clean, "")
        if self.cell is None:
            shown = zip(indices, known, views(clean, self.model.loss), strict=True)
            return Explained([Picture(index, label, view, None) for index, label, view in shown], arrays)
        led_from = clean.predictions if labels is None else labels
        attack = build_attack(self.cell, self.cell.loss_of(self.model.loss))
        threat = AttackTarget(self.model.classifier, images, self.model.classifier)
        attacked = attack_in_full(attack, threat, led_from, self.cell, generator)
        after = self._see(attacked.candidates, generator)
        pairs = zip(indices, known, views(clean, self.model.loss), views(after, self.model.loss), strict=True)
        return Explained([Picture(*pair) for pair in pairs], arrays | _arrays(after, "attacked_"))

    def _see(self, images: Images, generator: PerImageRng) -> Seen:
        classifier = self.model.classifier
        with torch.no_grad():
            predicted = predicted_classes(classifier(images))
        if (predicted < 0).any():
            raise RequestError(f"model {self.model.name!r} gives NaN or infinite logits on these images: check both")
        targets = predicted if self.target is None else torch.full_like(predicted, self.target)
        explanation: Explanation = explain(
            classifier, images, targets, method_for(classifier, self.method), generator=generator
        )
        return Seen(images, explanation.logits, explanation, explanation)


def _arrays(seen: Seen, prefix: str) -> dict[str, npt.NDArray[np.generic]]:
    explanation = seen.predicted
    tensors = {
        "images": seen.images,
        "logits": seen.logits,
        "targets": explanation.targets,
        "contributions": explanation.contributions,
        "pictures": coloured(explanation, seen.images),
    }
    if explanation.weights is not None:
        tensors["weights"] = explanation.weights
    return {f"{prefix}{name}": tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
