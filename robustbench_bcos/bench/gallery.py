"""Images explained outside of any run: with or without an attack, for any class."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from robustbench_bcos.bench.cells import Cell
from robustbench_bcos.bench.pictures import Picture, View
from robustbench_bcos.bench.similarity import make_views
from robustbench_bcos.bench.target import make_target
from robustbench_bcos.bench.trial import attack_and_judge
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.prediction import predicted_classes
from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.core.types import Images, Labels
from robustbench_bcos.explanations.colours import render
from robustbench_bcos.explanations.completeness import what_is_missing
from robustbench_bcos.explanations.explanation import Explanation, explain, method_for
from robustbench_bcos.model_zoo.models import Model

BATCH = 64

Arrays = dict[str, npt.NDArray[np.generic]]


class ExplainedGallery(NamedTuple):
    """A gallery's pictures, and the arrays behind them."""

    pictures: list[Picture]
    arrays: Arrays
    """``images``, ``logits``, ``targets``, ``contributions``, ``pictures`` (RGBA), ``weights`` where the method has
    them; with the prefix ``attacked_`` those of the adversarial examples."""
    finding: str = ""
    """What is missing from contributions that should sum to their logits; empty where nothing is."""


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Images to be explained.

    Args:
        model: what is explained.
        images: RGB in [0, 1].
        indices: number of each image, by which its randomness is drawn.
        labels: their classes, where they are known; without them an attack leads away from the class predicted.
        method: how to explain.
        targets: classes to explain; each image is pictured once for each, next to each other. By default the class
            predicted.
        contrast: what its logit is compared with, as of :func:`explain`.
        cell: the attack, if there is one.
        seed: of everything drawn.
    """

    model: Model
    images: Images
    indices: tuple[int, ...]
    labels: Labels | None = None
    method: str = "auto"
    targets: tuple[int, ...] = ()
    contrast: str | None = None
    cell: Cell | None = None
    seed: int = 0

    def explain(self) -> ExplainedGallery:
        """Explain all images, batch by batch.

        Raises:
            RequestError: the method cannot explain the model, or there is no such class.
        """
        parts = [self._explain_batch(slice(start, start + BATCH)) for start in range(0, len(self.images), BATCH)]
        arrays = {name: np.concatenate([part.arrays[name] for part in parts]) for name in parts[0].arrays}
        return ExplainedGallery([picture for part in parts for picture in part.pictures], arrays, parts[0].finding)

    def _explain_batch(self, part: slice) -> ExplainedGallery:
        images, indices = self.images[part], self.indices[part]
        labels = None if self.labels is None else self.labels[part]
        rng = PerImageRng.of(self.seed, indices)
        explained, clean = self._explain(images, rng)
        shown = self._for_each_target(images)
        arrays = _arrays(shown, clean, "")
        attacked: list[View] | list[None] = [None] * len(shown)
        if self.cell is not None:
            led_from = predicted_classes(clean.logits[:: self._maps]) if labels is None else labels
            attack = self.cell.attack.with_loss(self.model.loss).in_full()
            target = make_target(self.model, self.cell, images, led_from, seed=self.seed, indices=indices).slow
            adversarials = attack_and_judge(attack, target, subject=self.cell.key).adversarials
            _, after = self._explain(adversarials, rng)
            adversarials = self._for_each_target(adversarials)
            attacked = make_views(adversarials, after, self.model.trained_with)
            arrays |= _arrays(adversarials, after, "attacked_")
        known: list[int | None] = [None] * len(images) if labels is None else labels.tolist()
        whose = [place for place in range(len(images)) for _ in range(self._maps)]
        numbers, labelled = [indices[place] for place in whose], [known[place] for place in whose]
        columns = zip(numbers, labelled, make_views(shown, clean, self.model.trained_with), attacked, strict=True)
        pictures = [Picture(image=index, label=label, clean=one, attacked=two) for index, label, one, two in columns]
        return ExplainedGallery(pictures, arrays, self._finding(explained))

    @property
    def _maps(self) -> int:
        """Of each image."""
        return len(self.targets) or 1

    def _for_each_target(self, values: Tensor) -> Tensor:
        return values if self._maps == 1 else values.repeat_interleave(self._maps, dim=0)

    def _finding(self, explanation: Explanation) -> str:
        classifier = self.model.classifier
        dynamic = method_for(classifier, self.method) == "dynamic_weights"
        return what_is_missing(classifier, explanation, self.contrast) if dynamic else ""

    def _explain(self, images: Images, rng: PerImageRng) -> tuple[Explanation, Explanation]:
        """The explanation, and the same with the logits of the model itself."""
        classifier = self.model.classifier
        with torch.no_grad():
            logits = classifier(images)
        predicted = predicted_classes(logits)
        if (predicted < 0).any():
            raise RequestError(f"model {self.model.name!r} gives NaN or infinite logits on these images: check both")
        targets = torch.tensor(self.targets).expand(len(images), -1) if self.targets else predicted[:, None]
        method = method_for(classifier, self.method)
        found = explain(classifier, images, targets, method, contrast=self.contrast, rng=rng)
        explained = Explanation(
            weights=None if found.weights is None else found.weights.flatten(0, 1),
            contributions=found.contributions.flatten(0, 1),
            logits=self._for_each_target(found.logits),
            targets=found.targets.flatten(),
        )
        own = explained if self.contrast is None else replace(explained, logits=self._for_each_target(logits))
        return explained, own


def _arrays(images: Images, explanation: Explanation, prefix: str) -> Arrays:
    tensors = {
        "images": images,
        "logits": explanation.logits,
        "targets": explanation.targets,
        "contributions": explanation.contributions,
        "pictures": render(explanation, images),
    }
    if explanation.weights is not None:
        tensors["weights"] = explanation.weights
    return {f"{prefix}{name}": tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
