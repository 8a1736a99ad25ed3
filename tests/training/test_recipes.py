"""Recipes are data, and every packaged one can be followed."""

from pathlib import Path

import pytest
import torch

from robustbench_bcos.attacks import NORMS
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.quantities import Quantity
from robustbench_bcos.model_zoo.bcosify.build import published_logit_bias
from robustbench_bcos.model_zoo.classifier import build_classifier
from robustbench_bcos.training.recipes import RECIPES, Recipe

WHOLE = """
name = "mine"
family = "conventional"
architecture = "resnet8"
dataset = "digits"
classes = 10
image_size = [8, 12]
loss = "ce"
epochs = 2
optimiser = "adam"
learning_rate = 1e-3
[encoding]
kind = "none"
"""

NAMES = RECIPES.names()


def test_the_recipes_of_the_documented_zoo_are_there() -> None:
    digits = ["natural", "adv-l2", "adv-linf", "bcos-b1.25", "bcos-b2", "bcos-b2.5", "bcos-adv-l2"]
    assert {f"digits-{name}" for name in digits} <= set(NAMES)
    assert sorted(NAMES) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_packaged_recipe_is_read_and_its_model_built(name: str) -> None:
    recipe = RECIPES.load(name)
    assert recipe.name == name
    bcos = recipe.architecture.startswith("bcos_") or recipe.bcosified is not None
    assert recipe.family == ("bcos" if bcos else "conventional")
    classifier = build_classifier(recipe)
    classifier.eval()
    assert classifier(torch.zeros(1, 3, *recipe.image_size)).shape == (1, recipe.classes)


@pytest.mark.parametrize("file", sorted((Path(__file__).parents[2] / "docs" / "examples").glob("*.toml")), ids=str)
def test_a_recipe_of_the_documentation_is_read_and_its_model_built(file: Path) -> None:
    recipe = RECIPES.load(str(file))
    assert recipe.framing is not None
    assert recipe.bcosified is not None
    assert recipe.bcosified.logit_bias == published_logit_bias(recipe.classes)
    with torch.device("meta"):
        names = build_classifier(recipe).network.state_dict()
    assert names["layers.conv1.linear.weight"].shape == (64, 6, 7, 7)
    assert not any(name.endswith("bias") for name in names)


@pytest.mark.parametrize("name", [name for name in NAMES if "-adv-" in name and "-bcosified-" not in name])
def test_an_adversarial_recipe_names_a_ball_that_is_known(name: str) -> None:
    training = RECIPES.load(name).training
    assert training.kind == "adversarial"
    assert training.norm in NORMS
    assert f"adv-{training.norm}" in name
    assert training.eps is not None
    assert Quantity.of(training.eps).value > 0


def test_ones_own_recipe_is_read_from_its_path(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(WHOLE)
    recipe = RECIPES.load(str(tmp_path / "mine.toml"))
    assert (recipe.name, recipe.image_size, recipe.seed, recipe.batch_size) == ("mine", (8, 12), 0, 128)
    assert not recipe.augmentation.flip
    assert recipe.augmentation.crop == 0


def test_an_unknown_recipe_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(RequestError, match=r"^unknown recipe 'digits-naturl': did you mean 'digits-natural'\?"):
        RECIPES.load("digits-naturl")


def test_a_recipe_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=f"^{tmp_path}/mine.toml is not a readable TOML file"):
        RECIPES.load(f"{tmp_path}/mine.toml")


@pytest.mark.parametrize(
    ("written", "replacement", "said"),
    [
        ("epochs = 2", "epochs = 0", "epochs: input should be greater than 0, got 0"),
        ("epochs = 2", "epoch = 2", "epochs: field required"),
        ("epochs = 2", "epochs = 2\nepoch = 2", "'epoch': did you mean 'epochs'?"),
        ("epochs = 2", "epochs = 2\nbatch_size = 1", "batch_size: input should be greater than 1, got 1"),
        ("epochs = 2", "epochs = 2\nseed = -1", "seed: input should be greater than or equal to 0, got -1"),
        ("epochs = 2", "epochs = 2\nattack_steps = 0", "attack_steps: input should be greater than 0, got 0"),
        ("1e-3", "0", "learning_rate: input should be greater than 0, got 0"),
        ('"ce"', '"mse"', "loss: input should be 'ce', 'bce' or 'bce_off_label', got 'mse'"),
        ('"adam"', '"lion"', "optimiser: input should be 'adam', 'adamw' or 'sgd', got 'lion'"),
        ("epochs = 2", "epochs = 2\nlabel_smoothing = 1.0", "label_smoothing: input should be less than 1, got 1.0"),
        ("epochs = 2", "epochs = 2\nclip_by_weights = 0", "clip_by_weights: input should be greater than 0, got 0"),
        ("[encoding]", "[augmentation]\ncrop = -1\n[encoding]", "augmentation.crop: input should be greater"),
        (
            "[encoding]",
            "[augmentation]\nflips = true\n[encoding]",
            "'augmentation.flips': did you mean 'augmentation.flip'?",
        ),
        ("[encoding]", "[weights]\n[encoding]", "'weights'"),
    ],
    ids=lambda text: text.replace("\n", " "),
)
def test_a_recipe_that_does_not_fit_is_refused(tmp_path: Path, written: str, replacement: str, said: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(WHOLE.replace(written, replacement))
    with pytest.raises(RequestError) as caught:
        RECIPES.load(str(file))
    assert str(file) in str(caught.value)
    assert said in str(caught.value)


def test_recipes_do_not_change() -> None:
    recipe = RECIPES.load("digits-natural")
    assert isinstance(recipe, Recipe)
    with pytest.raises(ValueError, match="frozen"):
        recipe.epochs = 3  # type: ignore[misc]
