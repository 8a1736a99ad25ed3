"""The training loop: it learns, resumes bit for bit, and depends on the recipe and the images alone."""

import re
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from robustbench_bcos.attacks import NORMS
from robustbench_bcos.bench import fast_copy
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.statistics import wilson
from robustbench_bcos.data.memory import InMemory
from robustbench_bcos.data.opening import open_dataset
from robustbench_bcos.data.subset import EvalSubset
from robustbench_bcos.model_zoo.cards import Zoo
from robustbench_bcos.model_zoo.classifier import ImageClassifier
from robustbench_bcos.training import start, trainer
from robustbench_bcos.training.recipes import RECIPES, Recipe
from robustbench_bcos.training.trainer import Epoch, train
from robustbench_bcos.training.workshop import clean_accuracy
from tests.drafts import AS_BCOS, make_recipe

LINF = {"kind": "adversarial", "norm": "linf", "eps": "1/32"}
L2 = {"kind": "adversarial", "norm": "l2", "eps": "0.25"}


tiny_recipe = partial(make_recipe, attack_steps=2)
VARIANTS = {
    "natural": tiny_recipe(augmentation={"flip": True, "crop": 1}),
    "sgd": tiny_recipe(optimiser="sgd", weight_decay=1e-3),
    "adversarial": tiny_recipe(training=LINF, augmentation={"crop": 1}),
    "bcos": tiny_recipe(**AS_BCOS, training=L2),
    "bf16": tiny_recipe(**AS_BCOS, training=L2, precision="bf16"),
}


@cache
def tiny_images(classes: int = 3, seed: int = 0) -> EvalSubset:
    """13 images, so that neither 5 nor any other batch divides them evenly."""
    pixels = torch.rand(13, 3, 8, 4, generator=torch.Generator().manual_seed(seed))
    return EvalSubset.of(InMemory(pixels, torch.arange(13) % 3, classes=classes))


def assert_same_state(first: nn.Module, second: nn.Module) -> None:
    assert first.state_dict().keys() == second.state_dict().keys()
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


def differs(first: nn.Module, second: nn.Module) -> bool:
    return any(not torch.equal(tensor, second.state_dict()[name]) for name, tensor in first.state_dict().items())


class Stop(Exception):
    """What interrupts a training."""


def stop_at(number: int) -> Callable[[Epoch], None]:
    def stop(epoch: Epoch) -> None:
        if epoch.number == number:
            raise Stop

    return stop


def interrupt(recipe: Recipe, checkpoint: Path, *, during: int) -> None:
    """Train until the epoch of this number is over but not saved yet."""
    with pytest.raises(Stop):
        train(recipe, tiny_images(), checkpoint=checkpoint, on_epoch=stop_at(during))


def test_the_packaged_recipe_trains_the_packaged_accuracy() -> None:
    recipe = RECIPES.load("digits-natural")
    classifier = train(recipe, EvalSubset.of(open_dataset("digits", "train")))
    accuracy = clean_accuracy(classifier, EvalSubset.of(open_dataset("digits", "test")), "cpu")
    low, high = wilson(accuracy.correct, accuracy.total)
    assert high >= 0.98
    card = Zoo()["digits-natural"].card.clean_accuracy
    assert card is not None
    # Not bit for bit: sums are ordered differently by another processor or version of torch.
    assert low <= card.correct / card.total <= high


def test_training_learns_what_can_be_learnt() -> None:
    pixels = torch.rand(30, 3, 8, 4, generator=torch.Generator().manual_seed(0)) / 2
    labels = torch.arange(30) % 3
    pixels[torch.arange(30), labels] += 0.5
    images = EvalSubset.of(InMemory(pixels, labels, classes=3))
    epochs: list[Epoch] = []
    classifier = train(tiny_recipe(epochs=8, batch_size=10), images, on_epoch=epochs.append)
    assert clean_accuracy(classifier, images, "cpu").correct == 30
    assert [epoch.number for epoch in epochs] == list(range(1, 9))
    assert epochs[-1].loss < epochs[0].loss
    assert epochs[-1].accuracy > epochs[0].accuracy


@pytest.mark.parametrize("epochs", range(1, 7))
def test_a_training_may_be_as_short_as_one_step(epochs: int) -> None:
    fast, slow = (tiny_recipe(epochs=epochs, batch_size=13, learning_rate=rate) for rate in (1.0, 1e-12))
    assert differs(train(fast, tiny_images()), train(slow, tiny_images()))


@pytest.mark.parametrize("name", VARIANTS)
def test_training_is_a_function_of_the_seed(name: str) -> None:
    recipe = VARIANTS[name]
    first, again = (train(recipe, tiny_images()) for _ in range(2))
    assert_same_state(first, again)
    assert differs(first, train(recipe.model_copy(update={"seed": 1}), tiny_images()))


@pytest.mark.parametrize(
    ("base", "changes"),
    [
        ({}, {"loss": "bce"}),
        ({}, {"optimiser": "sgd"}),
        ({}, {"weight_decay": 0.5}),
        ({"optimiser": "sgd"}, {"weight_decay": 0.5}),
        ({}, {"augmentation": {"flip": True}}),
        ({}, {"augmentation": {"crop": 1}}),
        ({}, {"batch_size": 4}),
        ({}, {"training": LINF}),
        ({"training": LINF}, {"training": {**LINF, "eps": "1/16"}}),
        ({"training": LINF}, {"training": {**LINF, "norm": "l2"}}),
        ({"training": LINF}, {"attack_steps": 3}),
        ({}, {"precision": "bf16"}),
    ],
    ids=str,
)
def test_every_setting_of_a_recipe_counts(base: dict[str, Any], changes: dict[str, Any]) -> None:
    first, second = tiny_recipe(**base), tiny_recipe(**{**base, **changes})
    assert differs(train(first, tiny_images()), train(second, tiny_images()))


@pytest.mark.parametrize("name", VARIANTS)
def test_global_generators_are_neither_used_nor_moved(name: str) -> None:
    trained = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        np.random.seed(seed)
        before = torch.get_rng_state(), np.random.get_state()[1].tobytes()
        trained.append(train(VARIANTS[name], tiny_images()))
        assert torch.equal(torch.get_rng_state(), before[0])
        assert np.random.get_state()[1].tobytes() == before[1]
    assert_same_state(*trained)


def test_images_that_do_not_fit_into_memory_are_read_for_each_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, images = VARIANTS["adversarial"], tiny_images()
    held = train(recipe, images)
    monkeypatch.setattr(trainer, "HELD", 13 * 3 * 8 * 4 * 4 - 1)
    largest: list[int] = []
    read = EvalSubset.batch
    monkeypatch.setattr(EvalSubset, "batch", lambda self, a, b: (largest.append(b - a), read(self, a, b))[1])
    assert_same_state(train(recipe, images), held)
    assert 1 < max(largest) <= recipe.batch_size < len(images)


def test_a_trained_classifier_is_frozen() -> None:
    classifier = train(VARIANTS["natural"], tiny_images())
    assert not any(module.training for module in classifier.modules())
    assert not any(parameter.requires_grad for parameter in classifier.parameters())


@pytest.mark.parametrize("name", VARIANTS)
def test_a_resumed_training_equals_the_uninterrupted_one_bit_for_bit(tmp_path: Path, name: str) -> None:
    whole_epochs: list[Epoch] = []
    whole = train(VARIANTS[name], tiny_images(), on_epoch=whole_epochs.append)
    checkpoint = tmp_path / "tiny.ckpt"
    interrupt(VARIANTS[name], checkpoint, during=2)
    epochs: list[Epoch] = []
    resumed = train(VARIANTS[name], tiny_images(), checkpoint=checkpoint, on_epoch=epochs.append)
    assert [epoch.number for epoch in epochs] == [2]
    assert_same_state(whole, resumed)
    assert (epochs[0].loss, epochs[0].accuracy) == (whole_epochs[1].loss, whole_epochs[1].accuracy)


def test_a_training_that_is_over_is_not_begun_again(tmp_path: Path) -> None:
    checkpoint = tmp_path / "tiny.ckpt"
    whole = train(VARIANTS["natural"], tiny_images(), checkpoint=checkpoint)
    assert_same_state(whole, train(VARIANTS["natural"], tiny_images(), checkpoint=checkpoint, on_epoch=stop_at(1)))
    assert [file.name for file in tmp_path.iterdir()] == ["tiny.ckpt"]


@pytest.mark.parametrize("changes", [{"seed": 1}, {"learning_rate": 0.02}, {"epochs": 3}, {"name": "other"}])
def test_a_checkpoint_of_another_recipe_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    checkpoint = tmp_path / "tiny.ckpt"
    interrupt(VARIANTS["natural"], checkpoint, during=2)
    with pytest.raises(RequestError, match=f"^checkpoint {checkpoint} belongs to another recipe or to other images"):
        train(VARIANTS["natural"].model_copy(update=changes), tiny_images(), checkpoint=checkpoint)


def test_a_checkpoint_of_other_images_is_refused(tmp_path: Path) -> None:
    checkpoint = tmp_path / "tiny.ckpt"
    interrupt(VARIANTS["natural"], checkpoint, during=2)
    with pytest.raises(RequestError, match="or to other images"):
        train(VARIANTS["natural"], tiny_images(seed=1), checkpoint=checkpoint)


@pytest.mark.parametrize("content", [b"", b"no checkpoint", "cut"], ids=["empty", "text", "cut"])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, content: bytes | str) -> None:
    checkpoint = tmp_path / "tiny.ckpt"
    interrupt(VARIANTS["natural"], checkpoint, during=2)
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100] if isinstance(content, str) else content)
    with pytest.raises(RequestError, match=f"^checkpoint {checkpoint} cannot be read: remove it"):
        train(VARIANTS["natural"], tiny_images(), checkpoint=checkpoint)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda state: state | {"epochs": 1000}, "it says that 1000 of 2 epochs are done"),
        (lambda state: state | {"epochs": -5}, "it says that -5 of 2 epochs are done"),
        (lambda state: state | {"epochs": True}, "it says that True of 2"),
        (lambda state: state | {"epochs": 2}, "its optimiser has not done the 6 steps of 2 epochs"),
        (lambda state: state | {"classifier": {}}, "weights are not those of this network"),
        (lambda state: state | {"optimiser": None}, "the optimiser's averages are not those of this network"),
        (lambda state: changed(state, "classifier", "network.conv1.weight", lambda w: w[:1]), "is not of shape (16, 3"),
        (lambda state: changed(state, "classifier", "network.conv1.weight", lambda w: w / 0), "is not finite"),
        (lambda state: changed(state, "optimiser", "0.exp_avg", lambda w: w * torch.nan), "0.exp_avg is not finite"),
        (lambda state: changed(state, "optimiser", "0.exp_avg", str), "0.exp_avg is not of shape (16, 3, 3, 3)"),
        (lambda state: state | {"task": None}, "another recipe or to other images"),
        (lambda state: [state], "another recipe or to other images"),
    ],
)
def test_a_checkpoint_that_no_training_wrote_is_refused(
    tmp_path: Path, damage: Callable[[dict[str, Any]], object], said: str
) -> None:
    checkpoint = tmp_path / "tiny.ckpt"
    interrupt(VARIANTS["natural"], checkpoint, during=2)
    torch.save(damage(torch.load(checkpoint, weights_only=True)), checkpoint)
    with pytest.raises(
        RequestError, match=rf"{re.escape(said)}.*: remove it to begin afresh, or choose another folder$"
    ):
        train(VARIANTS["natural"], tiny_images(), checkpoint=checkpoint)


def changed(state: dict[str, Any], part: str, name: str, change: Callable[[Tensor], object]) -> dict[str, Any]:
    return state | {part: state[part] | {name: change(state[part][name])}}


def test_a_changed_byte_of_a_checkpoint_is_noticed_by_its_checksum(tmp_path: Path) -> None:
    checkpoint = tmp_path / "tiny.ckpt"
    interrupt(VARIANTS["natural"], checkpoint, during=2)
    content = bytearray(checkpoint.read_bytes())
    content[len(content) // 2] ^= 1
    checkpoint.write_bytes(content)
    with pytest.raises(RequestError, match="cannot be read"):
        train(VARIANTS["natural"], tiny_images(), checkpoint=checkpoint)


class Witness:
    """Sees what a classifier is trained on, and how often it is asked in evaluation mode."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trained_on: list[Tensor] = []
        self.evaluated = 0
        build = start.build_classifier

        def watched(recipe: Recipe) -> ImageClassifier:
            classifier = build(recipe)
            classifier.register_forward_pre_hook(self._see)
            return classifier

        monkeypatch.setattr(start, "build_classifier", watched)

    def _see(self, classifier: nn.Module, given: tuple[Tensor]) -> None:
        if classifier.training:
            self.trained_on.append(given[0].detach().clone())
        else:
            self.evaluated += 1


@pytest.mark.parametrize(("training", "epsilon"), [(LINF, 1 / 32), (L2, 0.25)], ids=["linf", "l2"])
def test_adversarial_training_meets_attacked_images_inside_the_ball(
    monkeypatch: pytest.MonkeyPatch, training: dict[str, str], epsilon: float
) -> None:
    witness = Witness(monkeypatch)
    train(tiny_recipe(training=training), tiny_images())
    originals = tiny_images().batch(0, 13).images
    norm = NORMS[training["norm"]]
    # Two epochs of three batches, each with one step; the attack looks at its start and two iterates.
    assert len(witness.trained_on) == 6
    assert witness.evaluated == 3 * 6
    for epoch in (witness.trained_on[:3], witness.trained_on[3:]):
        seen = torch.cat(epoch)
        assert seen.min() >= 0
        assert seen.max() <= 1
        distances = torch.stack([norm.size(seen - original) for original in originals])
        # Every image is met once, near itself: the images are many radii apart.
        assert sorted(distances.argmin(dim=0).tolist()) == list(range(13))
        nearest = distances.min(dim=0).values
        # Rounding to float32 of deltas and of their sums.
        assert (nearest <= epsilon * (1 + 1e-5)).all()
        assert (nearest > epsilon / 2).all()


@pytest.mark.parametrize("family", [{}, AS_BCOS], ids=["conventional", "bcos"])
def test_the_attack_of_a_training_asks_a_folded_copy_and_finds_what_it_finds_in_the_network(
    monkeypatch: pytest.MonkeyPatch, family: dict[str, Any]
) -> None:
    epochs: dict[str, list[Epoch]] = {"folded": [], "itself": []}
    # Of a network that does not change: what differs by rounding before a step differs by more after it.
    recipe = tiny_recipe(**family, training=L2, learning_rate=1e-12, epochs=1)
    with monkeypatch.context() as patch:
        copies: list[str] = []

        def watched(classifier: nn.Module, **options: Any) -> fast_copy.FastCopy:
            copied = fast_copy.fast_copy_of(classifier, **options)
            copies.append(copied.backend)
            return copied

        patch.setattr(trainer, "fast_copy_of", watched)
        train(recipe, tiny_images(), on_epoch=epochs["folded"].append)
        assert copies == ["folded channels_last fp32"] * 3
    monkeypatch.setattr(trainer, "fast_copy_of", lambda classifier, **_: fast_copy.FastCopy(classifier, "itself"))
    train(recipe, tiny_images(), on_epoch=epochs["itself"].append)
    assert epochs["folded"][0].loss == pytest.approx(epochs["itself"][0].loss, rel=1e-6)
    assert epochs["folded"][0].accuracy == epochs["itself"][0].accuracy


def test_an_attack_raises_the_loss_more_than_its_random_start_does(monkeypatch: pytest.MonkeyPatch) -> None:
    # The rate is so small that the network is the same throughout.
    recipe = tiny_recipe(training=LINF, learning_rate=1e-12, epochs=1, attack_steps=7)
    attacked: list[Epoch] = []
    train(recipe, tiny_images(), on_epoch=attacked.append)
    # Steps that are lost in rounding leave the random start.
    monkeypatch.setattr(trainer, "PGD", partial(trainer.PGD, step_size=1e-30))
    started: list[Epoch] = []
    train(recipe, tiny_images(), on_epoch=started.append)
    assert attacked[0].loss > started[0].loss


def positions(met: Tensor) -> list[int]:
    """Which of the tiny images each is nearest to."""
    originals = tiny_images().batch(0, 13).images
    return (met[:, None] - originals).flatten(2).abs().sum(dim=2).argmin(dim=1).tolist()


def test_natural_training_meets_every_image_once_an_epoch_in_an_order_of_epoch_and_seed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    orders = []
    for seed in (0, 1):
        with monkeypatch.context() as patch:
            witness = Witness(patch)
            train(tiny_recipe(seed=seed), tiny_images())
        assert [len(batch) for batch in witness.trained_on] == 2 * [5, 4, 4]
        assert witness.evaluated == 0
        for epoch in (witness.trained_on[:3], witness.trained_on[3:]):
            order = positions(torch.cat(epoch))
            assert torch.equal(torch.cat(epoch), tiny_images().batch(0, 13).images[order])
            assert sorted(order) == list(range(13))
            orders.append(tuple(order))
    assert len({tuple(range(13)), *orders}) == 5


def test_an_attack_starts_at_noise_of_the_image_the_epoch_and_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    # Steps that are lost in rounding leave the start.
    monkeypatch.setattr(trainer, "PGD", partial(trainer.PGD, step_size=1e-30))
    noise = []
    for seed in (0, 1):
        with monkeypatch.context() as patch:
            witness = Witness(patch)
            train(tiny_recipe(training=LINF, seed=seed), tiny_images())
        for epoch in (witness.trained_on[:3], witness.trained_on[3:]):
            met = torch.cat(epoch)
            noise.append(met - tiny_images().batch(0, 13).images[positions(met)])
    flat = torch.cat(noise).flatten(1)
    distances = torch.cdist(flat, flat) + torch.eye(len(flat))
    # Two draws of 96 values, each uniform in an interval of 1/16, are about 0.25 apart.
    assert distances.min() > 0.1


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_the_learning_rate_rises_for_a_quarter_of_the_steps_and_falls_to_nearly_nothing(optimiser: str) -> None:
    rates: list[float] = []
    watch = register_optimizer_step_pre_hook(lambda optimiser, *_: rates.append(optimiser.param_groups[0]["lr"]))
    try:
        train(tiny_recipe(optimiser=optimiser, epochs=8), tiny_images())
    finally:
        watch.remove()
    assert len(rates) == 8 * 3
    peak = rates.index(max(rates))
    assert rates[peak] == pytest.approx(0.01)
    assert peak == 8 * 3 // 4 - 1
    assert rates == sorted(rates[: peak + 1]) + sorted(rates[peak + 1 :], reverse=True)
    assert rates[0] < 0.01 / 10
    assert rates[-1] < 0.01 / 1000


@pytest.mark.parametrize("changes", [{"classes": 4}, {"image_size": (4, 8)}, {"image_size": (8, 5)}], ids=str)
def test_a_recipe_that_does_not_fit_the_images_is_refused(changes: dict[str, Any]) -> None:
    recipe = tiny_recipe(**changes)
    expected = (recipe.classes, *recipe.image_size)
    with pytest.raises(RequestError) as caught:
        train(recipe, tiny_images(), on_epoch=stop_at(1))
    message = f"recipe 'tiny' expects (classes, height, width) = {expected}, memory has (3, 8, 4): choose another"
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("eps", ["abc", "-1", "nan"])
def test_a_radius_that_is_none_is_refused(eps: str) -> None:
    with pytest.raises(RequestError, match=f"{eps}"):
        train(tiny_recipe(training={**LINF, "eps": eps}), tiny_images(), on_epoch=stop_at(1))
