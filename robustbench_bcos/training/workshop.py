"""From a recipe to files: weights, card and log, in a folder that ``--zoo`` takes."""

import socket
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from pathlib import Path

import tomli_w
import torch
from torch import nn

from robustbench_bcos.core.devices import choose_device
from robustbench_bcos.core.disk import held, made, sweep, write_text
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.framing import Framing
from robustbench_bcos.core.prediction import predicted_classes
from robustbench_bcos.core.tables import read_table
from robustbench_bcos.core.trainings import ENDING, kept_name
from robustbench_bcos.data.class_order import ClassOrder
from robustbench_bcos.data.grey import WithChannels
from robustbench_bcos.data.opening import is_dataset, open_dataset, takes_class_order
from robustbench_bcos.data.preprocessing import AS_THEY_ARE, Preprocessing
from robustbench_bcos.data.subset import EvalSubset
from robustbench_bcos.model_zoo.bcos.layers import learned_exponents
from robustbench_bcos.model_zoo.cards import Card, CleanAccuracy, ModelSpec, WeightsSpec
from robustbench_bcos.model_zoo.checkpoints.write import write_weights
from robustbench_bcos.model_zoo.classifier import ImageClassifier, build_classifier
from robustbench_bcos.training.logs import Log, read_log
from robustbench_bcos.training.recipes import Recipe
from robustbench_bcos.training.trainer import Epoch, check_fit, train

LICENCE = "Apache-2.0"


def make_model(
    recipe: Recipe,
    folder: Path,
    *,
    dataset: str,
    data_dir: Path | None = None,
    class_order: ClassOrder | None = None,
    device: str = "cpu",
    compiled: bool = False,
    fold: tuple[int, int] | None = None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    elsewhere: Sequence[str] | None = None,
) -> Card:
    """Train, measure on the test split, and write ``NAME.safetensors``, ``NAME.toml`` and ``NAME.log.csv``.

    Models that are kept on the way have weights and a card, too.

    Args:
        recipe: what to train and how.
        folder: where to write.
        dataset: its images.
        data_dir: where they are.
        class_order: which class is which output; by default class folders are in the order of their names.
        device: where to train.
        compiled: use ``torch.compile``.
        fold: (i, n) leaves out the i-th of n equal parts of the training images, balanced over classes.
        on_epoch: called after every epoch.
        elsewhere: digests of the images, where another process has asked for this training: it may have asked twice,
            so that one of two waits, and does not make again what is made.

    Raises:
        RequestError: the recipe does not fit the data, the folder is not writable, its disk is full, another process
            trains this model there, or images are others than elsewhere.
    """
    images, test = _splits(dataset, data_dir, class_order, recipe.framing)
    if elsewhere is not None and (images.digest, test.digest) != tuple(elsewhere):
        raise RequestError(
            f"images of {dataset} on {socket.gethostname()} are others than where the work was submitted: copy them"
        )
    images = images if fold is None else without_fold(images, *fold)
    images = without_held_out(recipe, images)
    check_fit(recipe, images)
    check_fit(recipe, test)
    made(folder)
    busy = f"{recipe.name} is being trained in {folder} by another process: wait for it, or choose another --out"
    with held(folder / f"{recipe.name}.lock", busy=busy, waiting=None if elsewhere is None else lambda: None):
        if elsewhere is not None and is_made(recipe, folder):
            return read_table(Card, folder / f"{recipe.name}.toml")
        for name, ending in product(_names(recipe), (".ckpt", ".safetensors", ".toml", ENDING)):
            sweep(folder, f"{name}{ending}")
        device = choose_device(device)
        checkpoint = folder / f"{recipe.name}.ckpt"
        log = Log(folder / f"{recipe.name}{ENDING}", on_epoch, goes_on=checkpoint.exists())
        # The class order of a folder is known from its folders' names alone, so the card must state it.
        order = images.class_names if takes_class_order(dataset) and recipe.texts is None else None

        def write(name: str, classifier: ImageClassifier) -> Card:
            return _write(
                recipe,
                name,
                folder=folder,
                classifier=classifier,
                accuracy=clean_accuracy(classifier, test, device),
                class_names=order,
            )

        trained = train(
            recipe,
            images,
            device=device,
            compiled=compiled,
            checkpoint=checkpoint,
            on_epoch=log,
            on_kept=lambda epochs, classifier: write(kept_name(recipe.name, epochs), classifier),
        )
        card = write(recipe.name, trained)
        checkpoint.unlink()
        return card


def _write(
    recipe: Recipe,
    name: str,
    *,
    folder: Path,
    classifier: ImageClassifier,
    accuracy: CleanAccuracy,
    class_names: tuple[str, ...] | None,
) -> Card:
    file = f"{name}.safetensors"
    said = {key: getattr(recipe, key) for key in ModelSpec.model_fields}
    digest = write_weights(classifier.network, folder / file, half=recipe.half, float8_filters=recipe.float8_filters)
    card = Card(
        **{**said, "name": name},
        recipe=recipe.name,
        weights=WeightsSpec(file=file, sha256=digest),
        clean_accuracy=accuracy,
        class_names=class_names,
        exponents={name: round(b, 4) for name, b in learned_exponents(classifier.network).items()},
        licence=LICENCE,
    )
    content = card.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    write_text(folder / f"{name}.toml", tomli_w.dumps(content))
    return card


def _names(recipe: Recipe) -> tuple[str, ...]:
    """Of all models that a training makes."""
    return (recipe.name, *(kept_name(recipe.name, epochs) for epochs in recipe.kept))


def dataset_of(recipe: Recipe, given: str | None) -> str:
    """What to open for a recipe: what is given, or what it says itself.

    Raises:
        RequestError: nothing is given, and the recipe's images cannot be opened by their name.
    """
    if given is None and not is_dataset(recipe.dataset):
        raise RequestError(
            f"recipe {recipe.name} is for the images of {recipe.dataset}, and no dataset is opened by that name: say "
            "where they are, as in --dataset folder:DIR"
        )
    return given or recipe.dataset


def check_request(
    recipes: Iterable[Recipe],
    dataset: str | None,
    *,
    data_dir: Path | None = None,
    class_order: ClassOrder | None = None,
    folds: int | None = None,
) -> None:
    """Refuse what cannot be trained, before anything is.

    Args:
        recipes: what is to be trained.
        dataset: its images; by default each recipe's own.
        data_dir: where they are.
        class_order: which class is which output.
        folds: into how many parts the training images are to be divided.

    Raises:
        RequestError: a recipe does not fit the data, its network cannot be built, or there are too many folds.
    """
    slices: dict[tuple[str, Framing | None], tuple[EvalSubset, EvalSubset]] = {}
    for recipe in recipes:
        opened = dataset_of(recipe, dataset), recipe.framing
        if opened not in slices:
            slices[opened] = _splits(opened[0], data_dir, class_order, recipe.framing)
            if folds is not None:
                without_fold(slices[opened][0], 0, folds)
        for images in slices[opened]:
            check_fit(recipe, images)
        with torch.device("meta"):
            build_classifier(recipe)


def _splits(
    dataset: str, data_dir: Path | None, class_order: ClassOrder | None, framing: Framing | None
) -> tuple[EvalSubset, EvalSubset]:
    """Training and test images, with the same labels for the same classes."""
    frame = AS_THEY_ARE if framing is None else Preprocessing(**vars(framing))
    images = open_dataset(dataset, "train", data_dir=data_dir, preprocessing=frame, class_order=class_order)
    if class_order is None and takes_class_order(dataset):
        class_order = ClassOrder.of("the training images", [[name] for name in images.class_names])
    test = open_dataset(dataset, "test", data_dir=data_dir, preprocessing=frame, class_order=class_order)
    # Recipes are of networks for RGB images.
    return EvalSubset.of(WithChannels(images, 3)), EvalSubset.of(WithChannels(test, 3))


def split_digests(
    dataset: str, *, data_dir: Path | None, class_order: ClassOrder | None, framing: Framing | None = None
) -> tuple[str, str]:
    """Of training and test images, as a recipe frames them."""
    images, test = _splits(dataset, data_dir, class_order, framing)
    return images.digest, test.digest


def is_made(recipe: Recipe, folder: Path) -> bool:
    """Whether a recipe's model is in a folder already.

    Raises:
        RequestError: one of its name is, and is of another recipe, or was trained for longer or shorter.
    """
    file, log = folder / f"{recipe.name}.toml", folder / f"{recipe.name}{ENDING}"
    if not all((folder / f"{name}.toml").is_file() for name in _names(recipe)):
        return False
    card = read_table(Card, file)
    same = all(getattr(card, key) == getattr(recipe, key) for key in ModelSpec.model_fields)
    if not same or (log.is_file() and len(read_log(log)) != recipe.epochs):
        raise RequestError(
            f"{file} was made by another recipe, or in other than {recipe.epochs} epochs: remove it to train it again, "
            "or choose another folder"
        )
    return True


def without_fold(images: EvalSubset, fold: int, folds: int) -> EvalSubset:
    """All images but every ``folds``-th, counted within each class.

    Raises:
        RequestError: there are more folds than images of any class, so that some would leave out nothing.
    """
    seen = [0] * len(images.class_names)
    kept = []
    for index in images.indices:
        label = images.dataset.labels[index]
        if seen[label] % folds != fold:
            kept.append(index)
        seen[label] += 1
    if folds > max(seen):
        raise RequestError(f"--folds {folds} is more than the {max(seen)} images of a class: give fewer")
    return EvalSubset(images.dataset, tuple(kept))


def without_held_out(recipe: Recipe, images: EvalSubset) -> EvalSubset:
    """All images but those of classes that the recipe holds out."""
    if recipe.texts is None:
        return images
    held_out = {recipe.texts.classes.index(name) for name in recipe.texts.held_out}
    return EvalSubset(images.dataset, tuple(i for i in images.indices if images.dataset.labels[i] not in held_out))


def clean_accuracy(classifier: nn.Module, images: EvalSubset, device: str) -> CleanAccuracy:
    """Count what a classifier gets right."""
    correct = 0
    with torch.no_grad():
        for batch in images.batches(500):
            predictions = predicted_classes(classifier(batch.images.to(device))).cpu()
            correct += int((predictions == batch.labels).sum())
    return CleanAccuracy(correct=correct, total=len(images))
