"""Exponents follow their objective at a rate of their own, and a training that is resumed has the same ones."""

from pathlib import Path
from typing import Any

import pytest
import torch

from robustbench_bcos.data.memory import InMemory
from robustbench_bcos.data.subset import EvalSubset
from robustbench_bcos.model_zoo.bcos.layers import learned_exponents
from robustbench_bcos.model_zoo.classifier import build_classifier
from robustbench_bcos.training.exponents import Exponents
from robustbench_bcos.training.recipes import LearnedB, Recipe
from robustbench_bcos.training.trainer import Epoch, train
from tests.drafts import AS_BCOS, make_recipe

OBJECTIVES = ["descent", "minimax", "alignment"]


def learning(objective: str = "minimax", how: str = "layer", **changes: Any) -> Recipe:
    """A recipe whose weights stay where they are, next to nothing apart, while B moves."""
    learned = {"objective": objective, "weight": 3.0, "learning_rate": 0.05}
    start = {"arguments": {"b": 1.6, "learn_b": how}, "epochs": 3, "learning_rate": 1e-9, "learned_b": learned}
    return make_recipe(**AS_BCOS | start | changes)


def subset() -> EvalSubset:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((15, 3, 8, 4), generator=generator)
    return EvalSubset.of(InMemory(images, torch.arange(15) % 3, classes=3))


def trained(recipe: Recipe, **settings: Any) -> tuple[dict[str, float], list[Epoch]]:
    epochs: list[Epoch] = []
    return learned_exponents(train(recipe, subset(), on_epoch=epochs.append, **settings).network), epochs


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_exponents_have_a_rate_of_their_own_and_no_weight_decay(optimiser: str) -> None:
    still, _ = trained(learning(optimiser=optimiser, weight_decay=1e3, learned_b={"learning_rate": 1e-12}))
    assert list(still.values()) == pytest.approx([1.6] * 10, abs=1e-5)
    moved, epochs = trained(learning(optimiser=optimiser))
    assert max(abs(b - 1.6) for b in moved.values()) > 1e-3
    assert (epochs[-1].smallest_b, epochs[-1].largest_b) == (min(moved.values()), max(moved.values()))


def test_epochs_of_other_trainings_have_no_exponents() -> None:
    _, epochs = trained(learning(arguments={"b": 1.6}))
    assert {epoch.largest_b for epoch in epochs} == {None}


def test_the_largest_b_sinks_under_minimax_and_b_grows_under_alignment() -> None:
    recipe = learning("minimax", "shared")
    sunk, _ = trained(recipe)
    grown, _ = trained(learning("alignment", "shared"))
    assert max(sunk.values()) < 1.6 < min(grown.values())
    assert len({*sunk.values()}) == 1


def test_plain_descent_drives_b_down_where_no_norm_makes_up_for_the_size_of_outputs() -> None:
    # Without norms logits are far too small, and a smaller B is what enlarges them.
    arguments = {"b": 2.0, "learn_b": "layer", "norm": "none", "logit_bias": 0.0}
    fallen, _ = trained(learning("descent", arguments=arguments, learning_rate=1e-2, epochs=8))
    assert max(fallen.values()) < 1.95


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_only_exponents_have_a_gradient_of_their_objective(objective: str) -> None:
    classifier = build_classifier(learning())
    watch = Exponents(classifier, LearnedB.model_validate({"objective": objective}))
    with watch.watched():
        classifier(subset().batch(0, 4).images)
    penalty = watch.penalty()
    if objective == "descent":
        assert penalty == 0.0
        return
    assert isinstance(penalty, torch.Tensor)
    penalty.backward()
    moved = {name for name, parameter in classifier.named_parameters() if parameter.grad is not None}
    assert moved
    assert all(name.endswith("exponent.raw") for name in moved)


def test_a_resumed_training_ends_with_the_same_exponents(tmp_path: Path) -> None:
    recipe = learning("alignment")
    whole, _ = trained(recipe)

    class Stop(Exception):
        pass

    def stop(epoch: Epoch) -> None:
        if epoch.number == 2:
            raise Stop

    with pytest.raises(Stop):
        train(recipe, subset(), checkpoint=tmp_path / "tiny.ckpt", on_epoch=stop)
    assert trained(recipe, checkpoint=tmp_path / "tiny.ckpt")[0] == whole
