"""Trainings that begin at a trained model: where they begin, what they minimise, how rates and B move."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from bcos.modules.losses import UniformOffLabelsBCEWithLogitsLoss
from torch import nn

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.data.opening import open_dataset
from robustbench_bcos.data.subset import EvalSubset
from robustbench_bcos.explanations.explanation import explain
from robustbench_bcos.model_zoo.bcos.layers import b_of, learned_exponents
from robustbench_bcos.model_zoo.bcosify.bcosify import bcosify
from robustbench_bcos.model_zoo.cards import Zoo
from robustbench_bcos.model_zoo.classifier import build_classifier
from robustbench_bcos.model_zoo.models import load_model
from robustbench_bcos.training.clipping import clip_by_weights
from robustbench_bcos.training.objectives import objective_of
from robustbench_bcos.training.recipes import RECIPES, Recipe
from robustbench_bcos.training.schedules import schedule_of, set_b
from robustbench_bcos.training.start import begin
from robustbench_bcos.training.trainer import Epoch, train

FINE_TUNED = [name for name in RECIPES.names() if RECIPES.load(name).start is not None]


def few_digits() -> EvalSubset:
    return EvalSubset.of(open_dataset("digits", "train"), 60)


def recipe_of(name: str = "digits-bcosified-natural", **changes: Any) -> Recipe:
    return Recipe.model_validate(RECIPES.load(name).model_dump(exclude_none=True) | changes)


@pytest.mark.parametrize("name", FINE_TUNED)
def test_training_begins_at_the_converted_source(name: str) -> None:
    recipe, images = recipe_of(name), few_digits()
    batch = images.batch(0, 5).images
    assert recipe.start is not None
    expected = bcosify(load_model(recipe.start), images=batch)(batch)
    with torch.no_grad():
        assert torch.equal(begin(recipe, images).eval()(batch), expected)


def test_fine_tuning_learns_and_its_card_is_one_of_a_b_cos_network() -> None:
    recipe = recipe_of(epochs=2, batch_size=20)
    told: list[Epoch] = []
    made = train(recipe, few_digits(), on_epoch=told.append)
    assert told[-1].loss < told[0].loss
    assert b_of(made) == 2
    assert recipe.bcosified is not None
    assert recipe.bcosified.weights == "raw"


def test_training_goes_on_from_a_checkpoint_as_it_would_have(tmp_path: Path) -> None:
    recipe = recipe_of(epochs=2, batch_size=20, scheduled_b={"epochs": 1.5})
    images, checkpoint = few_digits(), tmp_path / "x.ckpt"
    whole = train(recipe, images)

    def stop(epoch: Epoch) -> None:
        if epoch.number == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, images, checkpoint=checkpoint, on_epoch=stop)
    again = train(recipe, images, checkpoint=checkpoint)
    state = again.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in whole.state_dict().items())
    assert b_of(again) == 2


def test_b_is_learned_from_that_of_the_conversion_on() -> None:
    converted = recipe_of().bcosified
    assert converted is not None
    said = converted.model_copy(update={"learn_b": "layer"}).model_dump()
    recipe = recipe_of(epochs=1, batch_size=20, bcosified=said, learned_b={"weight": 1.0})
    made, batch = train(recipe, few_digits()), few_digits().batch(0, 3).images
    found = learned_exponents(made)
    assert len(found) == 10
    assert all(1e-4 < abs(b - 2) < 0.5 for b in found.values())
    # The card's table builds the network that these weights are of.
    again = build_classifier(recipe).eval()
    again.network.load_state_dict(made.network.state_dict())
    assert torch.equal(again(batch), made(batch))
    explained = explain(made, batch)
    torch.testing.assert_close(
        explained.contributions.sum(dim=(1, 2)) + converted.logit_bias, explained.logits.amax(dim=1)
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start": "digits-nat"}, "did you mean 'digits-natural'"),
        ({"start": "digits-*"}, "names 9 models"),
        ({"start": "digits-bcos-b2"}, "B-cos layers already"),
        ({"bcosified": {"weights": "raw", "source": "digits-natural"}}, "must say image_layers = ('conv1',)"),
        ({"bcosified": None, "start": "digits-bcos-b2", "encoding": {"kind": "add_inverse"}}, "do not fit"),
    ],
)
def test_what_training_cannot_begin_at_is_refused(changes: dict[str, Any], message: str) -> None:
    values = {**recipe_of().model_dump(exclude_none=True), **changes}
    recipe = Recipe.model_validate({key: value for key, value in values.items() if value is not None})
    with pytest.raises(RequestError) as error:
        begin(recipe, few_digits())
    assert message in str(error.value)


def test_tables_that_need_each_other_are_asked_for() -> None:
    values = recipe_of().model_dump(exclude_none=True)
    with pytest.raises(ValueError, match="bcosified needs start"):
        Recipe.model_validate({key: value for key, value in values.items() if key != "start"})
    with pytest.raises(ValueError, match="scheduled_b sets the B that learn_b lets the training find"):
        recipe_of(bcosified=values["bcosified"] | {"learn_b": "layer"}, scheduled_b={"epochs": 1})
    natural = RECIPES.load("digits-natural").model_dump(exclude_none=True)
    with pytest.raises(ValueError, match="belongs to B-cos networks"):
        Recipe.model_validate(natural | {"scheduled_b": {"epochs": 1}})


def test_losses_are_the_official_ones_and_torchs() -> None:
    logits = 4 * torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    hot = F.one_hot(labels, 5).double()
    losses = {
        loss: objective_of(recipe_of(loss=loss))(logits, labels).mean() for loss in ("ce", "bce", "bce_off_label")
    }
    torch.testing.assert_close(losses["bce_off_label"], UniformOffLabelsBCEWithLogitsLoss()(logits, hot))
    torch.testing.assert_close(losses["bce"], F.binary_cross_entropy_with_logits(logits, hot))
    torch.testing.assert_close(losses["ce"], F.cross_entropy(logits, labels))
    smooth = objective_of(recipe_of(loss="ce", label_smoothing=0.1))(logits, labels).mean()
    torch.testing.assert_close(smooth, F.cross_entropy(logits, labels, label_smoothing=0.1))


def test_gradients_are_at_most_a_share_of_their_filters() -> None:
    layer = nn.Linear(3, 4)
    nn.init.zeros_(layer.weight[0])  # type: ignore[arg-type]
    gradient = torch.tensor([[1.0, 2, 2], [1e-6, 0, 0], [3, 0, 4], [0, 0, 0]])
    layer.weight.grad, layer.bias.grad = gradient.clone(), torch.full((4,), 1e-9)
    clip_by_weights(layer.parameters(), 0.01)
    norms = layer.weight.grad.norm(dim=1)
    assert norms[0] == pytest.approx(1e-3 * 0.01)
    assert norms[2] == pytest.approx(0.01 * float(layer.weight[2].detach().norm()), rel=1e-5)
    torch.testing.assert_close(layer.weight.grad[2] / norms[2], gradient[2] / 5)
    assert torch.equal(layer.weight.grad[[1, 3]], gradient[[1, 3]])
    assert torch.equal(layer.bias.grad, torch.full((4,), 1e-9))


def test_rates_fall_along_a_cosine_from_epoch_to_epoch() -> None:
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule, rates = schedule_of(recipe_of(epochs=4), optimiser, batches=3), []
    for _ in range(12):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    assert rates[::3] == pytest.approx([2, 1 + 2**-0.5, 1, 1 - 2**-0.5])
    assert rates[0] == rates[2] != rates[3]


def test_b_grows_to_that_of_the_network() -> None:
    recipe = recipe_of(scheduled_b={"start": 1.0, "epochs": 4})
    network = begin(recipe, few_digits())
    for epoch, b in ((0, 1), (1, 1.25), (4, 2), (9, 2)):
        set_b(network, recipe.scheduled_b, float(epoch), 2.0)
        assert b_of(network) == b
    assert Zoo()["digits-natural"].card.bcosified is None
