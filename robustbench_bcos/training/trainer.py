"""The training loop: a recipe and a slice in, a classifier out."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robustbench_bcos.attacks import LOSSES
from robustbench_bcos.attacks.searches.pgd import PGD
from robustbench_bcos.core.disk import write_with
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.rng import PerImageRng, generator
from robustbench_bcos.core.types import Images, Labels
from robustbench_bcos.data.subset import EvalSubset
from robustbench_bcos.model_zoo.architectures import initialise
from robustbench_bcos.model_zoo.classifier import ImageClassifier, build_classifier, freeze
from robustbench_bcos.model_zoo.mixed_precision import Bfloat16
from robustbench_bcos.training.augmentation import augment
from robustbench_bcos.training.recipes import Recipe

WARM_UP = 0.25
"""Part of the cycle during which the learning rate rises."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """What is told of a finished epoch."""

    number: int
    loss: float
    accuracy: float
    """Of the training images as they were presented: augmented and, in adversarial training, attacked."""
    seconds: float


def train(
    recipe: Recipe,
    images: EvalSubset,
    *,
    device: str = "cpu",
    compiled: bool = False,
    checkpoint: Path | None = None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> ImageClassifier:
    """Follow a recipe.

    Every draw is a function of the recipe's seed and the epoch, so that training resumed from a checkpoint continues
    as it would have.

    Args:
        recipe: what to train and how.
        images: the training images; they are held in memory.
        device: where to train.
        compiled: use ``torch.compile``.
        checkpoint: file to resume from, if it exists, and to write after every epoch.
        on_epoch: called after every epoch.

    Raises:
        RequestError: the recipe does not fit the images, or the checkpoint does not fit the recipe.
    """
    check_fit(recipe, images)
    classifier = build_classifier(recipe)
    initialise(classifier, generator(recipe.seed))
    classifier.to(device)
    run = _Training(recipe, classifier, images, compiled)
    first = run.resume(checkpoint) if checkpoint is not None and checkpoint.exists() else 0
    pixels, labels = (tensor.to(device) for tensor in images.batch(0, len(images))[:2])
    for number in range(first, recipe.epochs):
        on_epoch(run.epoch(number, pixels, labels))
        if checkpoint is not None:
            run.save(checkpoint, number + 1)
    return freeze(_rounded(classifier) if recipe.half else classifier)


def check_fit(recipe: Recipe, images: EvalSubset) -> None:
    """Refuse images the recipe was not written for."""
    got = (len(images.class_names), *images.image_shape[1:])
    expected = (recipe.classes, *recipe.image_size)
    if got != expected:
        raise RequestError(
            f"recipe {recipe.name!r} expects (classes, height, width) = {expected}, {images.dataset.name} has {got}: "
            "choose another dataset or recipe"
        )


class _Training:
    def __init__(self, recipe: Recipe, classifier: ImageClassifier, images: EvalSubset, compiled: bool) -> None:
        self.recipe = recipe
        self.images = images
        self.classifier = classifier
        # Compiling and rounding change how the network is run, not what its state is called.
        self.forward = _forward(recipe, classifier, compiled)
        self.loss = LOSSES[recipe.loss]
        self.optimiser = _optimiser(recipe, classifier)
        self.batches = -(-len(images) // recipe.batch_size)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimiser,
            max_lr=recipe.learning_rate,
            # torch divides by the length of the rise, which is 0 in a cycle of four steps.
            total_steps=max(5, recipe.epochs * self.batches),
            pct_start=WARM_UP,
            cycle_momentum=False,
        )

    def epoch(self, number: int, pixels: Images, labels: Labels) -> Epoch:
        started = time.perf_counter()
        random = generator(self.recipe.seed, number)
        total_loss = correct = 0.0
        for chosen in self._shuffled(len(pixels), random):
            batch = augment(pixels[chosen], self.recipe.augmentation, random)
            batch = self._attacked(batch, labels[chosen], PerImageRng.of(self._noise_seed(number), chosen))
            logits, loss = self._step(batch, labels[chosen])
            total_loss += float(loss) * len(chosen)
            correct += int((logits.argmax(dim=1) == labels[chosen]).sum())
        return Epoch(number + 1, total_loss / len(pixels), correct / len(pixels), time.perf_counter() - started)

    def _shuffled(self, images: int, random: torch.Generator) -> Iterator[Tensor]:
        yield from torch.randperm(images, generator=random).tensor_split(self.batches)

    def _noise_seed(self, number: int) -> int:
        return self.recipe.seed * self.recipe.epochs + number

    def _attacked(self, images: Images, labels: Labels, noise: PerImageRng) -> Images:
        norm, radius = self.recipe.training.norm, self.recipe.training.eps
        if norm is None or radius is None:
            return images
        # Evaluation mode: the search must not move running statistics, and meets the network as it will be used.
        freeze(self.classifier)
        pgd = PGD(steps=self.recipe.attack_steps, loss=self.loss, start="random", select="last")
        return pgd(self.forward, images, labels, norm, radius, rng=noise).adversarials

    def _step(self, images: Images, labels: Labels) -> tuple[Tensor, Tensor]:
        self.classifier.train().requires_grad_()
        self.optimiser.zero_grad(set_to_none=True)
        logits = self.forward(images)
        loss = self.loss(logits, labels).mean()
        loss.backward()
        self.optimiser.step()
        self.schedule.step()
        return logits.detach(), loss.detach()

    def save(self, checkpoint: Path, epochs: int) -> None:
        state = {"task": self._task(), "epochs": epochs, **self._state()}
        write_with(checkpoint, lambda stream: torch.save(state, stream))

    def resume(self, checkpoint: Path) -> int:
        try:
            state = torch.load(checkpoint, map_location="cpu", weights_only=True)
            task = state["task"]
        except Exception:  # torch raises nearly anything over a damaged file.
            raise RequestError(
                f"checkpoint {checkpoint} cannot be read: remove it to begin afresh, or choose another folder"
            ) from None
        if task != self._task():
            raise RequestError(
                f"checkpoint {checkpoint} belongs to another recipe or to other images: remove it, or choose another "
                "folder"
            )
        self.classifier.load_state_dict(state["classifier"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        return int(state["epochs"])

    def _task(self) -> list[str]:
        return [self.recipe.model_dump_json(), self.images.digest]

    def _state(self) -> dict[str, Any]:
        return {
            "classifier": self.classifier.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
        }


def _rounded(classifier: ImageClassifier) -> ImageClassifier:
    """With weights that half precision holds exactly."""
    return classifier.half().float()


def _forward(recipe: Recipe, classifier: ImageClassifier, compiled: bool) -> Callable[[Tensor], Tensor]:
    forward = classifier
    if recipe.precision == "bf16":
        # Kernels for bfloat16 are written for features whose channels lie side by side.
        classifier.to(memory_format=torch.channels_last)
        forward = ImageClassifier(classifier.encoding, Bfloat16(classifier.network))
    return torch.compile(forward) if compiled else forward


def _optimiser(recipe: Recipe, classifier: ImageClassifier) -> torch.optim.Optimizer:
    if recipe.optimiser == "adam":
        return torch.optim.Adam(classifier.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(
        classifier.parameters(),
        lr=recipe.learning_rate,
        momentum=0.9,
        nesterov=True,
        weight_decay=recipe.weight_decay,
    )
