"""Answers of a model that make every number about it meaningless, found on a few images before hours are spent.

Evidence measures the same after an attack, and judges the numbers of models that are attacked all the same.
"""

from collections.abc import Callable, Iterator

import torch
from torch import nn

from robustbench_bcos.bench.evidence import answers
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.prediction import predicted_classes
from robustbench_bcos.core.statistics import binomial_greater, mcnemar_worse
from robustbench_bcos.core.types import Classifier, Flags, Images, Labels
from robustbench_bcos.data.subset import EvalSubset
from robustbench_bcos.model_zoo.classifier import ImageClassifier
from robustbench_bcos.model_zoo.encodings import parse_encoding
from robustbench_bcos.model_zoo.models import Model

LABELLED = 32
"""Images whose labels are compared with predictions, to find out which range of pixels a model takes; not with less."""

CHANCE = 0.05
"""P value of an accuracy above which it may be that of guesses."""

CERTAIN = 1e-3
"""P value, for all ranges together, below which another range of pixels is what the model was made for."""

RANGES = {
    "none": "as they are, in [0, 1]",
    "normalize:bytes": "in [0, 255]",
    "normalize:symmetric": "in [-1, 1]",
    "normalize:imagenet": "less ImageNet's mean, over its deviation",
    "normalize:cifar10": "less CIFAR-10's mean, over its deviation",
}
"""Encodings that networks are made for, and what they do to pixels."""

Objection = Callable[[nn.Module, Images, Labels], str]
"""What is wrong and its remedy; empty where nothing is."""


def check_answers(model: Model, images: EvalSubset, *, device: str) -> None:
    """Ask a model that gives one logit per image and class about some images of the subset.

    Raises:
        RequestError: its answers are probabilities, are not the same twice, depend on the other images, or are those of
            a network made for another range of pixels.
    """
    batch = images.batch(0, LABELLED)
    classifier = model.classifier.to(device)
    shown, labels = batch.images.to(device), batch.labels.to(device)
    for objection, asked in OBJECTIONS.items():
        said = objection(classifier, shown[:asked], labels[:asked])
        if said:
            raise RequestError(f"model {model.name!r} {said}, or have it attacked nonetheless with --skip-model-checks")


def probabilities(classifier: nn.Module, images: Images, labels: Labels) -> str:
    """Rows in [0, 1] that sum to 1, or one number in [0, 1] for each image: losses for logits saturate on them."""
    if answers.are_probabilities(_logits(classifier, images)):
        return "gives probabilities, and attacks need logits: return what its softmax or sigmoid is given"
    return ""


def not_the_same_twice(classifier: nn.Module, images: Images, labels: Labels) -> str:
    """Answers to the same images, asked again."""
    against = answers.determinism(classifier, images).against
    if not bool(against.any()):
        return ""
    return (
        f"answers {_share(against)} differently when it is asked again: make it deterministic, or average over its "
        "draws inside it"
    )


def dependent_on_the_batch(classifier: nn.Module, images: Images, labels: Labels) -> str:
    """Answers to images on their own, beside those to the same images among others."""
    against = answers.batch_independence(classifier, images).against
    if not bool(against.any()):
        return ""
    culprit = next(_norms_of_the_batch(classifier), "")
    cause = f" (its batch norm {culprit} has no running statistics or is in training mode)" if culprit else ""
    return (
        f"answers {_share(against)} differently alone than among others{cause}: normalise with statistics that do not "
        "come from the batch"
    )


def made_for_another_range(classifier: nn.Module, images: Images, labels: Labels) -> str:
    """Guesses on [0, 1], and good answers in another range.

    Thresholds are exact: that no better than guessing is right as it is, and that another range is better than guesses
    and, image by image, than this one. A constant answer may be right as often as the commonest label.
    """
    network, channels = classifier, 3
    if isinstance(classifier, ImageClassifier):
        network, channels = classifier.network, classifier.encoding.channels
    if len(images) < LABELLED or channels != 3:
        return ""
    guessed = float(labels.bincount().max()) / len(labels)
    plain = _correct(classifier, images, labels)
    if binomial_greater(int(plain.sum()), len(images), guessed) <= CHANCE:
        return ""
    found = {}
    for encoding in RANGES:
        right = _correct(nn.Sequential(parse_encoding(encoding).to(images.device), network), images, labels)
        lost, won = int((right & ~plain).sum()), int((plain & ~right).sum())
        ps = binomial_greater(int(right.sum()), len(images), guessed), mcnemar_worse(lost, won)
        if max(ps) < CERTAIN / len(RANGES):
            found[encoding] = int(right.sum())
    if not found:
        return ""
    best = max(found, key=found.__getitem__)
    return (
        f"gets {int(plain.sum())} of {len(images)} images right, as guesses do, and {found[best]} if it is given "
        f"pixels {RANGES[best]}: give --encoding {best}, or correct its card"
    )


OBJECTIONS: dict[Objection, int] = {
    probabilities: answers.ALONE,
    not_the_same_twice: answers.ALONE,
    dependent_on_the_batch: 2 * answers.ALONE,
    made_for_another_range: LABELLED,
}
"""In this order, on so many images: less than evidence asks about, since large networks take a second for each."""


def _norms_of_the_batch(classifier: nn.Module) -> Iterator[str]:
    """Names of batch norms that take statistics from the batch they are given."""
    for name, module in classifier.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (module.training or module.running_mean is None):
            yield name


def _logits(classifier: Classifier, images: Images) -> torch.Tensor:
    with torch.no_grad():
        return classifier(images)


def _correct(classifier: Classifier, images: Images, labels: Labels) -> Flags:
    """Which images are right; none where the network fails on such pixels."""
    try:
        return predicted_classes(_logits(classifier, images)) == labels
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError):
        return torch.zeros_like(labels, dtype=torch.bool)


def _share(flags: Flags) -> str:
    return f"{int(flags.sum())} of {len(flags)} images"
