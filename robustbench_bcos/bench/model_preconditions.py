"""Answers of a model that make every number about it meaningless, found on a few images before hours are spent.

Evidence measures the same after an attack, and judges the numbers of models that are attacked all the same.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from robustbench_bcos.bench.evidence import answers
from robustbench_bcos.bench.evidence.alternatives import (
    CERTAIN,
    CERTAIN_IF_ASSUMED,
    RANGES,
    Alternatives,
    Asked,
    Better,
    Standard,
    compare,
    counts,
    in_words,
    other_ranges,
)
from robustbench_bcos.bench.evidence.class_order import find_order
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.prediction import are_probabilities
from robustbench_bcos.core.types import Flags, Images
from robustbench_bcos.data.opening import takes_class_order
from robustbench_bcos.data.subset import EvalSubset
from robustbench_bcos.model_zoo.architectures.odenet import flows_of
from robustbench_bcos.model_zoo.draws import draws_of
from robustbench_bcos.model_zoo.models import Model

MOSTLY = 0.5
"""Share of images that a model must get wrong for the order of its classes to be looked at in more of them."""


@dataclass(frozen=True, kw_only=True)
class Tried:
    """A model on its device, and the images it is tried on."""

    model: Model
    subset: EvalSubset
    device: str

    @property
    def classifier(self) -> nn.Module:
        """What is asked."""
        return self.model.classifier

    @cached_property
    def asked(self) -> Asked:
        """What it has said of the first images."""
        return Asked(self.classifier, self.subset, self.device)

    def images(self, count: int) -> Images:
        """The first images."""
        return self.subset.batch(0, count).images.to(self.device)

    def better(self, alternatives: Alternatives, standard: Standard = CERTAIN) -> Better | None:
        """An alternative that is certainly better than the model."""
        return compare(self.asked, alternatives, self.subset, self.device, standard).better


Objection = Callable[[Tried], str]
"""What is wrong and its remedy; empty where nothing is."""


def check_answers(model: Model, images: EvalSubset, *, device: str) -> None:
    """Ask a model that gives one logit per image and class about some images of the subset.

    Raises:
        RequestError: its answers are probabilities, are not the same twice, depend on the other images, or are those of
            a network made for other pixels, with other arguments, or for another order of the classes.
    """
    model.classifier.to(device)
    tried = Tried(model=model, subset=images, device=device)
    for objection in OBJECTIONS:
        said = objection(tried)
        if said:
            raise RequestError(f"model {model.name!r} {said}, or have it attacked nonetheless with --skip-model-checks")


def probabilities(tried: Tried) -> str:
    """Rows in [0, 1] that sum to 1, or one number in [0, 1] for each image: losses for logits saturate on them."""
    with torch.no_grad():
        rows = tried.classifier(tried.images(answers.FEW))
    if are_probabilities(rows):
        return "gives probabilities, and attacks need logits: return what its softmax or sigmoid is given"
    return ""


def not_the_same_twice(tried: Tried) -> str:
    """Answers to the same images, asked again."""
    against = answers.determinism(tried.classifier, tried.images(answers.FEW)).against
    if not bool(against.any()):
        return ""
    said = f"answers {_share(against)} differently when it is asked again"
    if draws_of(tried.classifier) > 1:
        return f"{said}, though its draws are seeded: let it draw from torch's, NumPy's or Python's global generator"
    return f"{said}: average over its draws with --eot 20, or make it deterministic"


def dependent_on_the_batch(tried: Tried) -> str:
    """Answers to images on their own, beside those to the same images among others; a solver may say it itself."""
    mixing = [flow.solver for flow in flows_of(tried.classifier) if flow.solver.mixes_images]
    if mixing:
        return (
            f"is solved by {mixing[0].name}, which chooses one step for all images of a batch, so that an answer "
            "depends on its neighbours: give solver rk4 or torchode, or per_image = true, among its arguments"
        )
    against = answers.batch_independence(tried.classifier, tried.images(answers.FEW)).against
    if not bool(against.any()):
        return ""
    answered = f"answers {_share(against)} differently alone than among others"
    culprit = next(_norms_of_the_batch(tried.classifier), "")
    if culprit:
        return (
            f"{answered} (its batch norm {culprit} has no running statistics or is in training mode): normalise with "
            "statistics that do not come from the batch"
        )
    return (
        f"{answered}, and no batch norm of it does that (a solver that chooses one step for all images, routing with a "
        "limited capacity, attention or a mean over images would): make its forward pass work on each image by itself, "
        "with fixed steps say, or show it one at a time, torch.cat([self.network(image) for image in images.split(1)])"
    )


def made_for_another_range(tried: Tried) -> str:
    """Better answers where pixels are in another range, however good they are as they are."""
    better = tried.better(other_ranges(tried.classifier))
    if better is None:
        return ""
    stated = f"give --encoding {better.name}, or correct its card"
    remedy = stated if better.name in RANGES else "read them so, or undo it in the model's code"
    return f"gets {better.words} if it is given {in_words(better.name)}: {remedy}"


def made_with_other_arguments(tried: Tried) -> str:
    """Better answers of the same weights where something else is assumed of them."""
    better = tried.better(tried.model.alternatives, CERTAIN_IF_ASSUMED)
    if better is None:
        return ""
    return f"gets {better.words} with {better.name}, which the weights leave open: give {better.name}"


def of_another_class_order(tried: Tried) -> str:
    """Good answers that count as wrong, because the data count the classes otherwise."""
    names = tried.subset.class_names
    for count in () if tried.subset.dataset.adversarial else counts(tried.subset):
        right = tried.asked.right(count)
        labels, predictions = tried.asked.labels[:count].tolist(), tried.asked.predictions[:count].tolist()
        found = find_order(labels, predictions, len(names))
        if found is not None:
            dataset = tried.subset.dataset.name
            remedy = (
                "list the class names in the model's order with --classes"
                if takes_class_order(dataset)
                else "put the model's outputs in the order of the classes"
            )
            return f"counts the classes in another order than {dataset}: {found.words(names)}: {remedy}"
        if right.double().mean() > MOSTLY:
            break
    return ""


OBJECTIONS: tuple[Objection, ...] = (
    probabilities,
    not_the_same_twice,
    dependent_on_the_batch,
    made_for_another_range,
    made_with_other_arguments,
    of_another_class_order,
)
"""In this order, and on less than evidence asks about, since large networks take a second for each image."""


def _norms_of_the_batch(classifier: nn.Module) -> Iterator[str]:
    """Names of batch norms that take statistics from the batch they are given."""
    for name, module in classifier.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (module.training or module.running_mean is None):
            yield name


def _share(flags: Flags) -> str:
    return f"{int(flags.sum())} of {len(flags)} images"
