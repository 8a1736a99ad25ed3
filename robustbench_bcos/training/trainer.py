"""The training loop: from a recipe and images to a classifier."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from robustbench_bcos.attacks import LOSSES
from robustbench_bcos.attacks.searches.pgd import PGD
from robustbench_bcos.bench.fast_copy import fast_copy_of
from robustbench_bcos.core.adapted import copied
from robustbench_bcos.core.disk import write_bytes
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.rng import PerImageRng, generator
from robustbench_bcos.core.types import Images, Labels
from robustbench_bcos.data.subset import EvalSubset
from robustbench_bcos.model_zoo.bcos.layers import b_of
from robustbench_bcos.model_zoo.checkpoints.read import read_content
from robustbench_bcos.model_zoo.checkpoints.write import round_filters
from robustbench_bcos.model_zoo.classifier import ImageClassifier, freeze
from robustbench_bcos.model_zoo.mixed_precision import Bfloat16
from robustbench_bcos.training.augmentation import augment
from robustbench_bcos.training.clipping import clip_by_weights
from robustbench_bcos.training.exponents import Exponents, exponents_of
from robustbench_bcos.training.objectives import objective_of
from robustbench_bcos.training.recipes import Recipe
from robustbench_bcos.training.schedules import schedule_of, set_b
from robustbench_bcos.training.start import begin

FLOAT32 = 4
"""Bytes of a number."""

HELD = 8 * 2**30
"""Bytes of training images that are held in memory, at most: CIFAR-10 is 0.6 GB of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """Statistics of one epoch of training."""

    number: int
    loss: float
    accuracy: float
    """Of the training images as they were presented: augmented and, in adversarial training, attacked."""
    seconds: float
    smallest_b: float | None = None
    """Of exponents that are learned, after the epoch."""
    largest_b: float | None = None


def train(
    recipe: Recipe,
    images: EvalSubset,
    *,
    device: str = "cpu",
    compiled: bool = False,
    checkpoint: Path | None = None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    on_kept: Callable[[float, ImageClassifier], object] = lambda epochs, classifier: None,
) -> ImageClassifier:
    """Follow a recipe.

    Every draw is a function of the recipe's seed and the epoch, so that training resumed from a checkpoint continues
    as it would have.

    Args:
        recipe: what to train and how.
        images: the training images; they are held in memory where they fit into ``HELD``, and otherwise each is read
            when a batch needs it.
        device: where to train.
        compiled: use ``torch.compile``.
        checkpoint: file to resume from, if it exists, and to write after every epoch.
        on_epoch: called after every epoch.
        on_kept: called with each number of epochs after which the recipe keeps the model, and what it is then.

    Raises:
        RequestError: the recipe does not fit the images, or the checkpoint does not fit the recipe.
    """
    check_fit(recipe, images)
    classifier = begin(recipe, images)
    classifier.to(device)
    run = _Training(recipe, classifier, images, compiled, on_kept)
    first = run.resume(checkpoint) if checkpoint is not None and checkpoint.exists() else 0
    if first == 0:
        run.keep(0)
    pictures = _Pictures(images, device)
    for number in range(first, recipe.epochs):
        on_epoch(run.epoch(number, pictures))
        if checkpoint is not None:
            run.save(checkpoint, number + 1)
    run.finish()
    return run.finished(classifier)


class _Pictures:
    """Training images by their places, with labels, on a device."""

    def __init__(self, images: EvalSubset, device: str) -> None:
        self.images = images
        self.device = device
        bytes_needed = FLOAT32 * len(images) * math.prod(images.image_shape)
        self.held = images.batch(0, len(images)).on(device) if bytes_needed <= HELD else None

    def __len__(self) -> int:
        return len(self.images)

    def __call__(self, places: Tensor) -> tuple[Images, Labels]:
        if self.held is not None:
            return self.held.images[places], self.held.labels[places]
        indices = tuple(self.images.indices[place] for place in places.tolist())
        images, labels, _ = EvalSubset(self.images.dataset, indices).batch(0, len(indices)).on(self.device)
        return images, labels


def check_fit(recipe: Recipe, images: EvalSubset) -> None:
    """Refuse images the recipe was not written for."""
    got = (len(images.class_names), *images.image_shape[1:])
    expected = (recipe.classes, *recipe.image_size)
    if got != expected:
        raise RequestError(
            f"recipe {recipe.name!r} expects (classes, height, width) = {expected}, {images.dataset.name} has {got}: "
            "choose another dataset or recipe"
        )
    texts = () if recipe.texts is None else recipe.texts.classes
    if texts != images.class_names and {*texts} == {*images.class_names}:
        raise RequestError(
            f"recipe {recipe.name!r} names the classes in another order than {images.dataset.name}, which has "
            f"{', '.join(images.class_names[:3])}, ...: list them in its order, or give --classes"
        )


class _Training:
    def __init__(
        self,
        recipe: Recipe,
        classifier: ImageClassifier,
        images: EvalSubset,
        compiled: bool,
        on_kept: Callable[[float, ImageClassifier], object],
    ) -> None:
        self.recipe = recipe
        self.on_kept = on_kept
        self.images = images
        self.classifier = classifier
        # Compiling and rounding change how the network is run, not what its state is called.
        self.compiled = compiled
        self.forward = _forward(recipe, classifier, compiled)
        self.objective = objective_of(recipe)
        # Of attacks: their bce does not round to 0 either.
        self.loss = LOSSES[recipe.loss.attacked]
        self.optimiser = _optimiser(recipe, _parameters(classifier))
        self.exponents = Exponents(classifier, recipe.learned_b)
        self.batches = -(-len(images) // recipe.batch_size)
        self.schedule = schedule_of(recipe, self.optimiser, self.batches)
        self.b = b_of(classifier)

    def epoch(self, number: int, pictures: _Pictures) -> Epoch:
        started = time.perf_counter()
        random = generator(self.recipe.seed, number)
        total_loss = correct = 0.0
        for batch_number, chosen in enumerate(self._shuffled(len(pictures), random)):
            if self.b is not None:
                set_b(self.classifier, self.recipe.scheduled_b, number + batch_number / self.batches, self.b)
            pixels, labels = pictures(chosen)
            batch = augment(pixels, self.recipe.augmentation, random)
            batch = self._attacked(batch, labels, PerImageRng.of(self._noise_seed(number), chosen))
            logits, loss = self._step(batch, labels)
            total_loss += float(loss) * len(chosen)
            correct += int((logits.argmax(dim=1) == labels).sum())
            self.keep(number * self.batches + batch_number + 1)
        seconds = time.perf_counter() - started
        count = len(pictures)
        smallest, largest = self.exponents.range()
        return Epoch(
            number=number + 1,
            loss=total_loss / count,
            accuracy=correct / count,
            seconds=seconds,
            smallest_b=smallest,
            largest_b=largest,
        )

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
        # Folding takes a hundredth of the attack, and nearly halves it; a copy would be compiled anew for every batch.
        fast = self.forward if self.compiled else fast_copy_of(self.classifier, precision=self.recipe.precision).network
        pgd = PGD(steps=self.recipe.attack_steps, loss=self.loss, start="random", select="last")
        return pgd(fast, images, labels, norm, radius, rng=noise).adversarials

    def _step(self, images: Images, labels: Labels) -> tuple[Tensor, Tensor]:
        self.classifier.train().requires_grad_()
        self.optimiser.zero_grad(set_to_none=True)
        with self.exponents.watched():
            logits = self.forward(images)
        loss = self.objective(logits, labels).mean()
        (loss + self.exponents.penalty()).backward()
        if self.recipe.clip_by_weights is not None:
            clip_by_weights(self.classifier.parameters(), self.recipe.clip_by_weights)
        self.optimiser.step()
        self.schedule.step()
        return logits.detach(), loss.detach()

    def keep(self, steps: int) -> None:
        """Hand over what the model is after so many steps, if the recipe keeps that."""
        for epochs in self.recipe.kept:
            if round(epochs * self.batches) == steps:
                self.on_kept(epochs, self.finished(cast(ImageClassifier, copied(self.classifier))))

    def finished(self, classifier: ImageClassifier) -> ImageClassifier:
        """A classifier that is not trained any further, changed in place."""
        if self.recipe.float8_filters:
            round_filters(classifier)
        return freeze(classifier.half().float() if self.recipe.half else classifier)

    def finish(self) -> None:
        """B as the recipe's network has it, however short the training was."""
        if self.b is not None:
            set_b(self.classifier, self.recipe.scheduled_b, float("inf"), self.b)

    def save(self, checkpoint: Path, epochs: int) -> None:
        """Write all that cannot be derived from the recipe: the schedule and the optimiser's settings can."""
        state = {"task": self._task(), "epochs": epochs, **self._state()}
        content = BytesIO()
        # Written at once: torch hides what a disk says behind an error of its own.
        torch.save(state, content)
        write_bytes(checkpoint, content.getvalue())

    def resume(self, checkpoint: Path) -> int:
        """Continue from a checkpoint; gives the number of epochs that are done.

        Raises:
            RequestError: it is damaged, of another training, or holds what no training of this recipe writes.
        """
        remedy = "remove it to begin afresh, or choose another folder"
        try:
            state = read_content(checkpoint).value
        except RequestError:
            raise RequestError(f"checkpoint {checkpoint} cannot be read: {remedy}") from None
        if not isinstance(state, dict) or state.get("task") != self._task():
            raise RequestError(f"checkpoint {checkpoint} belongs to another recipe or to other images: {remedy}")
        try:
            return self._restore(state)
        except (ValueError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[-1].strip()
            raise RequestError(f"checkpoint {checkpoint} is damaged ({reason}): {remedy}") from None

    def _restore(self, state: dict[str, Any]) -> int:
        epochs = state.get("epochs")
        if type(epochs) is not int or not 1 <= epochs <= self.recipe.epochs:
            raise ValueError(f"it says that {epochs} of {self.recipe.epochs} epochs are done")
        _check_tensors(state.get("classifier"), self.classifier.state_dict(), "weights")
        self.classifier.load_state_dict(state["classifier"])
        _check_tensors(state.get("optimiser"), self._after_a_step(), "the optimiser's averages")
        steps = epochs * self.batches
        if any(name.endswith(".step") and float(count) != steps for name, count in state["optimiser"].items()):
            raise ValueError(f"its optimiser has not done the {steps} steps of {epochs} epochs")
        moments = self.optimiser.state_dict()
        moments["state"] = _nested(state["optimiser"])
        self.optimiser.load_state_dict(moments)
        # The rate is a function of the step; torch counts its own calls, to warn of an optimiser that never stepped.
        self.schedule.load_state_dict({"last_epoch": steps - 1, "_step_count": steps + 1})
        self.schedule.step()
        return epochs

    def _task(self) -> list[str]:
        return [self.recipe.model_dump_json(), self.images.digest]

    def _state(self) -> dict[str, dict[str, Tensor]]:
        return {"classifier": self.classifier.state_dict(), "optimiser": _flat(self.optimiser)}

    def _after_a_step(self) -> dict[str, Tensor]:
        """What the optimiser keeps of each parameter, as far as names and shapes go."""
        parameters = _parameters(self.classifier)._replace(
            weights=[_with_gradient(parameter) for parameter in _parameters(self.classifier).weights],
            exponents=[_with_gradient(parameter) for parameter in _parameters(self.classifier).exponents],
        )
        optimiser = _optimiser(self.recipe, parameters)
        optimiser.step()
        return _flat(optimiser)


def _flat(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What an optimiser keeps, under names such as ``3.exp_avg``: of the fourth parameter."""
    state = optimiser.state_dict()["state"]
    return {f"{place}.{name}": tensor for place, kept in state.items() for name, tensor in kept.items()}


def _nested(flat: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    nested: dict[int, dict[str, Tensor]] = {}
    for key, tensor in flat.items():
        place, name = key.split(".")
        nested.setdefault(int(place), {})[name] = tensor
    return nested


def _check_tensors(found: object, expected: Mapping[str, Tensor], what: str) -> None:
    """Refuse tensors of other names, shapes or types, and numbers that are not finite."""
    if not isinstance(found, dict) or found.keys() != expected.keys():
        raise ValueError(f"{what} are not those of this network")
    for name, tensor in expected.items():
        there = found[name]
        if not isinstance(there, Tensor) or (there.shape, there.dtype) != (tensor.shape, tensor.dtype):
            raise ValueError(f"{what}: {name} is not of shape {tuple(tensor.shape)}")
        if not there.isfinite().all():
            raise ValueError(f"{what}: {name} is not finite")


def _forward(recipe: Recipe, classifier: ImageClassifier, compiled: bool) -> Callable[[Tensor], Tensor]:
    forward = classifier
    if recipe.precision == "bf16":
        # Kernels for bfloat16 are written for features whose channels lie side by side.
        classifier.to(memory_format=torch.channels_last)
        forward = ImageClassifier(classifier.encoding, Bfloat16(classifier.network))
    return torch.compile(forward) if compiled else forward


class _Parameters(NamedTuple):
    """What an optimiser moves."""

    weights: list[Tensor]
    exponents: list[Tensor]


def _parameters(network: nn.Module) -> _Parameters:
    exponents = {id(parameter) for parameter in exponents_of(network)}
    weights: list[Tensor] = [parameter for parameter in network.parameters() if id(parameter) not in exponents]
    return _Parameters(weights, list(exponents_of(network)))


def _with_gradient(parameter: Tensor) -> Tensor:
    copy = torch.zeros_like(parameter).requires_grad_()
    copy.grad = torch.zeros_like(parameter)
    return copy


def _optimiser(recipe: Recipe, parameters: _Parameters) -> torch.optim.Optimizer:
    groups = [{"params": parameters.weights, "lr": recipe.learning_rate, "weight_decay": recipe.weight_decay}]
    if parameters.exponents:
        groups.append({"params": parameters.exponents, "lr": recipe.learned_b.learning_rate, "weight_decay": 0.0})
    if recipe.optimiser == "adam":
        return torch.optim.Adam(groups)
    if recipe.optimiser == "adamw":
        return torch.optim.AdamW(groups)
    return torch.optim.SGD(groups, momentum=0.9, nesterov=True)
