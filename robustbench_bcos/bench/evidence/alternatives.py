"""Other models that one could have meant: of pixels in another range, or of the same weights with other arguments.

Each is compared with the model image by image, on as many images of the evaluation subset as it takes to be certain.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from robustbench_bcos.bench.evidence.found import Found
from robustbench_bcos.core.prediction import predicted_classes
from robustbench_bcos.core.statistics import binomial_greater, mcnemar_worse, self_normalised
from robustbench_bcos.core.types import Flags, Images, Labels, Logits, PerImage
from robustbench_bcos.data.subset import EvalSubset
from robustbench_bcos.model_zoo.classifier import ImageClassifier
from robustbench_bcos.model_zoo.encoding_spec import CONSTANTS
from robustbench_bcos.model_zoo.encodings import parse_encoding

LABELLED = (32, 128, 512)
"""Images whose labels are compared with predictions: more only while it is open whether a model is mistaken, and none
with less."""

FEWEST_WRONG = 2
"""Images that a model must get wrong for alternatives to be looked at."""

BATCH = 32

SHARPNESS: tuple[float, ...] = tuple(2.0 ** (exponent / 2) for exponent in range(-8, 17))
"""What logits are multiplied by, once their spread is 1, before losses are taken."""

RANGES: dict[str, str] = {
    "none": "as they are, in [0, 1]",
    "normalize:bytes": "in [0, 255]",
    "normalize:symmetric": "in [-1, 1]",
    "normalize:imagenet": "less ImageNet's mean, over its deviation",
    "normalize:cifar10": "less CIFAR-10's mean, over its deviation",
    "normalize:0.485,0.456,0.406/0.00392157": "in [0, 255], less ImageNet's mean",
}
"""Encodings that networks are made for, and what they do to pixels."""

READINGS: dict[str, Callable[[Images], Images]] = {
    "with red and blue in each other's place": lambda images: images.flip(1),
    "with rows as columns": lambda images: images.transpose(2, 3),
    "in negative": lambda images: 1 - images,
}
"""Other ways in which files are read, in words, and what gives images as they would have been."""

TWICE: dict[str, str] = {
    f"times the deviation of {whose}, plus its mean, which undoes one of two normalisations": name
    for name, whose in (("imagenet", "ImageNet"), ("cifar10", "CIFAR-10"), ("symmetric", "[-1, 1]"))
}
"""What is right for a model that normalises what its own code normalises again, in words, and by whose constants."""

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
    """What a classifier says of the first images of a subset; it is asked about none of them twice.

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
        self.logits = torch.zeros(0, 0, dtype=torch.double)
        self.labels = torch.zeros(0, dtype=torch.long)

    @property
    def predictions(self) -> Labels:
        """Of the images that it was asked about."""
        return predicted_classes(self.logits)

    def right(self, count: int) -> Flags:
        """Which of the first images it is right about."""
        for start in range(len(self.labels), count, BATCH):
            batch = self._subset.batch(start, min(start + BATCH, count))
            answers = self._answers(batch.images.to(self._device))
            if len(self.logits) == 0 or self.logits.shape[1] != answers.shape[1]:
                # Nothing was asked before, or it failed.
                self.logits = torch.full((len(self.labels), answers.shape[1]), torch.nan, dtype=torch.double)
            self.logits = torch.cat([self.logits, answers])
            self.labels = torch.cat([self.labels, batch.labels])
        return predicted_classes(self.logits[:count]) == self.labels[:count]

    def losses(self, count: int, sharpness: float) -> PerImage:
        """Cross-entropy of the first images, their logits multiplied by this once their spread is 1.

        The scale of logits depends on B, and does not count. Where they are not finite all classes are equally likely.
        """
        self.right(count)
        logits = self.logits[:count]
        logits = torch.where(logits.isfinite().all(dim=1, keepdim=True), logits, 0)
        spread = float((logits - logits.mean(dim=1, keepdim=True)).square().mean().sqrt()) or 1.0
        losses: PerImage = cross_entropy(logits * (sharpness / spread), self.labels[:count], reduction="none")
        return losses

    def sharpness(self, count: int) -> float:
        """That at which these losses are smallest."""
        return min(SHARPNESS, key=lambda sharpness: float(self.losses(count, sharpness).mean()))

    def _answers(self, images: torch.Tensor) -> Logits:
        try:
            with torch.no_grad():
                logits: Tensor = self._classifier(images)
            return logits.cpu().double()
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError):
            if not self._failing:
                raise
            return torch.full((len(images), max(1, self.logits.shape[1])), torch.nan, dtype=torch.double)


@dataclass(frozen=True, kw_only=True)
class Standard:
    """What it takes to be certain."""

    below: float
    """P value, for all alternatives and numbers of images together, below which an alternative is what was meant."""
    p: Callable[[Asked, Asked, int], float]
    """Of so many of the first images, that the second classifier is no better than the first."""
    thorough: bool
    """Whether a model that is right about the first images is asked about further ones, one pass each."""


def by_answers(asked: Asked, other: Asked, count: int) -> float:
    """From the images that only one of them is right about (exact McNemar test)."""
    right, instead = asked.right(count), other.right(count)
    return mcnemar_worse(int((instead & ~right).sum()), int((right & ~instead).sum()))


def by_losses(asked: Asked, other: Asked, count: int) -> float:
    """From the difference of losses of every image, of one that is right more often (self-normalised sum).

    A network with another B is wrong about few images and less sure of many, so that losses say it with fewer images
    than answers do. Both are as sharp as suits the first: at a sharpness of its own, one that is right about every
    image has a smaller loss on all of them, which says nothing.
    """
    if int(other.right(count).sum()) <= int(asked.right(count).sum()):
        return 1.0
    sharpness = asked.sharpness(count)
    return self_normalised((asked.losses(count, sharpness) - other.losses(count, sharpness)).tolist())


CERTAIN = Standard(below=1e-3, p=by_answers, thorough=False)
"""For alternatives to what somebody stated."""

CERTAIN_IF_ASSUMED = Standard(below=1e-2, p=by_losses, thorough=True)
"""For alternatives to what nobody stated, which is doubtful to begin with."""


def counts(subset: EvalSubset) -> Iterator[int]:
    """Numbers of images to look at, one after the other; none where there are too few."""
    if len(subset) >= LABELLED[0]:
        yield from dict.fromkeys(min(count, len(subset)) for count in LABELLED)


def other_ranges(classifier: nn.Module) -> Alternatives:
    """The network behind each encoding of RGB images, in place of its own, and the model with images read otherwise."""
    network, channels = classifier, 3
    if isinstance(classifier, ImageClassifier):
        network, channels = classifier.network, classifier.encoding.channels
    if channels != 3:
        return {}
    encoded = {name: partial(_behind, name, network) for name in RANGES}
    readings = READINGS | {name: partial(_undone, constants) for name, constants in TWICE.items()}
    return encoded | {name: partial(_Reading, read, classifier) for name, read in readings.items()}


def in_words(name: str) -> str:
    """What the model is given by one of these alternatives."""
    return f"pixels {RANGES[name]}" if name in RANGES else f"images {name}"


class _Reading(nn.Module):
    def __init__(self, read: Callable[[Images], Images], classifier: nn.Module) -> None:
        super().__init__()
        self._read = read
        self.classifier = classifier

    def forward(self, images: Images) -> Logits:
        answers: Logits = self.classifier(self._read(images))
        return answers


def _undone(constants: str, images: Images) -> Images:
    mean, std = (torch.tensor(values, device=images.device).view(3, 1, 1) for values in CONSTANTS[constants])
    return images * std + mean


def _behind(encoding: str, network: nn.Module) -> nn.Module:
    return nn.Sequential(parse_encoding(encoding), network)


def compare(
    asked: Asked, alternatives: Alternatives, subset: EvalSubset, device: str, standard: Standard = CERTAIN
) -> Compared:
    """Look for the best alternative that is certainly better than the model.

    It must be better than the model by the standard, and right more often than a constant answer would be (exact
    binomial test). Those that are not ahead are not asked about further images.

    Args:
        asked: the model.
        alternatives: to be compared.
        subset: the images.
        device: where to ask.
        standard: what it takes to be certain.
    """
    level = standard.below / (max(1, len(alternatives)) * len(LABELLED))
    others: dict[str, Asked] = {}
    compared = Compared(images=0, passes=1)
    # Of images that were made to be misclassified by this model, any other is right more often.
    for count in counts(subset) if alternatives and not subset.dataset.adversarial else ():
        right = asked.right(count)
        if int((~right).sum()) < FEWEST_WRONG:
            compared = Compared(images=count, passes=1)
            if standard.thorough:
                continue
            break
        others = others or {
            name: Asked(make().eval().to(device), subset, device, failing=True) for name, make in alternatives.items()
        }
        instead = {name: other.right(count) for name, other in others.items()}
        guessed = int(asked.labels[:count].bincount().max()) / count
        certain = {
            name: int(flags.sum())
            for name, flags in instead.items()
            if binomial_greater(int(flags.sum()), count, guessed) < level
            and standard.p(asked, others[name], count) < level
        }
        was_certain = compared.better is not None
        best = max(certain, key=certain.__getitem__, default=None)
        better = None if best is None else Better(name=best, right=right, right_instead=instead[best])
        compared = Compared(images=count, passes=1 + len(alternatives), better=better)
        # Once more, because several may be certain, and more images say which is the best.
        others = {name: others[name] for name, flags in instead.items() if int(flags.sum()) > int(right.sum())}
        if was_certain or not others:
            break
    return compared
