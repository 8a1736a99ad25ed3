"""Other models that one could have meant: of pixels in another range, or of the same weights with other arguments.

Each is compared with the model image by image, on as many images of the evaluation subset as it takes to be certain.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from robustbench_bcos.bench.evidence.found import Found
from robustbench_bcos.core.prediction import predicted_classes
from robustbench_bcos.core.statistics import binomial_greater, mcnemar_worse
from robustbench_bcos.core.types import Flags
from robustbench_bcos.data.subset import EvalSubset
from robustbench_bcos.model_zoo.classifier import ImageClassifier
from robustbench_bcos.model_zoo.encodings import parse_encoding

LABELLED = (32, 128, 512)
"""Images whose labels are compared with predictions: more only for models that may be mistaken, and none with less."""

CERTAIN = 1e-3
"""P value, for all alternatives and numbers of images together, below which an alternative is what was meant."""

CERTAIN_IF_ASSUMED = 1e-2
"""The same for alternatives to what nobody stated, which is doubtful to begin with."""

FEWEST_WRONG = 2
"""Images that a model must get wrong for alternatives to be looked at."""

BATCH = 32

RANGES: dict[str, str] = {
    "none": "as they are, in [0, 1]",
    "normalize:bytes": "in [0, 255]",
    "normalize:symmetric": "in [-1, 1]",
    "normalize:imagenet": "less ImageNet's mean, over its deviation",
    "normalize:cifar10": "less CIFAR-10's mean, over its deviation",
    "normalize:0.485,0.456,0.406/0.00392157": "in [0, 255], less ImageNet's mean",
}
"""Encodings that networks are made for, and what they do to pixels."""

Alternatives = Mapping[str, Callable[[], nn.Module]]
"""How to make each, by name."""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What came of a comparison."""

    images: int
    """Those that the model and its alternatives were asked about; 0 where there are too few to decide anything."""
    passes: int
    """Forward passes per image, at most."""
    better: "Better | None" = None

    def found(self, named: Callable[[str], str]) -> Found:
        """What a check makes of it: images that only the alternative is right about speak against the number.

        Args:
            named: the alternative in words.
        """
        if self.better is None:
            return Found(against=torch.zeros(self.images, dtype=torch.bool), passes=self.passes)
        right, instead = self.better.right, self.better.right_instead
        finding = f"the model gets {self.better.words} with {named(self.better.name)}"
        return Found(against=instead & ~right, passes=self.passes, finding=finding)


@dataclass(frozen=True, kw_only=True, eq=False)
class Better:
    """An alternative that is certainly better than the model."""

    name: str
    right: Flags
    """Images that the model is right about."""
    right_instead: Flags
    """Images that the alternative is right about."""

    @property
    def words(self) -> str:
        """Both counts."""
        return f"{int(self.right.sum())} of {len(self.right)} images right, and {int(self.right_instead.sum())}"


class Asked:
    """What a classifier predicts for the first images of a subset; it is asked about none of them twice.

    Args:
        classifier: on the device.
        subset: the images.
        device: where to ask.
        failing: whether a classifier that fails on such pixels is merely wrong.
    """

    def __init__(self, classifier: nn.Module, subset: EvalSubset, device: str, *, failing: bool = False) -> None:
        self._classifier = classifier
        self._subset = subset
        self._device = device
        self._failing = failing
        self.predictions = torch.zeros(0, dtype=torch.long)
        self.labels = torch.zeros(0, dtype=torch.long)

    def right(self, count: int) -> Flags:
        """Which of the first images it is right about."""
        for start in range(len(self.labels), count, BATCH):
            batch = self._subset.batch(start, min(start + BATCH, count))
            self.predictions = torch.cat([self.predictions, self._predicted(batch.images.to(self._device))])
            self.labels = torch.cat([self.labels, batch.labels])
        return self.predictions[:count] == self.labels[:count]

    def _predicted(self, images: torch.Tensor) -> torch.Tensor:
        try:
            with torch.no_grad():
                return predicted_classes(self._classifier(images)).cpu()
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError):
            if not self._failing:
                raise
            return torch.full((len(images),), -1)


def counts(subset: EvalSubset) -> Iterator[int]:
    """Numbers of images to look at, one after the other; none where there are too few."""
    if len(subset) >= LABELLED[0]:
        yield from dict.fromkeys(min(count, len(subset)) for count in LABELLED)


def other_ranges(classifier: nn.Module) -> Alternatives:
    """The network behind each encoding of RGB images, in place of its own."""
    network, channels = classifier, 3
    if isinstance(classifier, ImageClassifier):
        network, channels = classifier.network, classifier.encoding.channels
    if channels != 3:
        return {}
    return {name: partial(_behind, name, network) for name in RANGES}


def _behind(encoding: str, network: nn.Module) -> nn.Module:
    return nn.Sequential(parse_encoding(encoding), network)


def compare(
    asked: Asked, alternatives: Alternatives, subset: EvalSubset, device: str, certain_below: float = CERTAIN
) -> Compared:
    """Look for the best alternative that is certainly better than the model.

    It must be right about images that the model is wrong about (exact McNemar test), and more often than a constant
    answer would be (exact binomial test). Those that are not ahead are not asked about further images.

    Args:
        asked: the model.
        alternatives: to be compared.
        subset: the images.
        device: where to ask.
        certain_below: p value for all alternatives and numbers of images together.
    """
    level = certain_below / (max(1, len(alternatives)) * len(LABELLED))
    others: dict[str, Asked] = {}
    compared = Compared(images=0, passes=1)
    # Of images that were made to be misclassified by this model, any other is right more often.
    for count in counts(subset) if alternatives and not subset.dataset.adversarial else ():
        right = asked.right(count)
        if int((~right).sum()) < FEWEST_WRONG:
            return Compared(images=count, passes=1)
        others = others or {
            name: Asked(make().eval().to(device), subset, device, failing=True) for name, make in alternatives.items()
        }
        instead = {name: other.right(count) for name, other in others.items()}
        guessed = int(asked.labels[:count].bincount().max()) / count
        certain = {name: int(flags.sum()) for name, flags in instead.items() if _p(right, flags, guessed) < level}
        was_certain = compared.better is not None
        best = max(certain, key=certain.__getitem__, default=None)
        better = None if best is None else Better(name=best, right=right, right_instead=instead[best])
        compared = Compared(images=count, passes=1 + len(alternatives), better=better)
        # Once more, because several may be certain, and more images say which is the best.
        others = {name: others[name] for name, flags in instead.items() if int(flags.sum()) > int(right.sum())}
        if was_certain or not others:
            break
    return compared


def _p(right: Flags, instead: Flags, guessed: float) -> float:
    """P value that an alternative is no better than the model, or no better than guesses."""
    won, lost = int((instead & ~right).sum()), int((right & ~instead).sum())
    return max(mcnemar_worse(won, lost), binomial_greater(int(instead.sum()), len(instead), guessed))
