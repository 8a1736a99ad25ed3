"""Variations of a recipe differ from it in what they say, and in nothing else."""

from pathlib import Path
from typing import Any

import pytest
import torch

from robustbench_bcos.bench.config import SUITES
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.trainings import Trainings
from robustbench_bcos.model_zoo.bcos.norms import NORM_LAYERS
from robustbench_bcos.model_zoo.classifier import build_classifier
from robustbench_bcos.training.recipes import RECIPES, Recipe
from robustbench_bcos.training.variations import vary

BASE = RECIPES.load("digits-bcos-b2")
CENTRE = "bcos-b2"


def of(variations: dict[str, Any], **changes: Any) -> list[Recipe]:
    values = {"recipe": "digits-bcos-b2", "seeds": (4,), "variations": variations} | changes
    return list(vary(Trainings.model_validate(values), "suite mine"))


def differing(first: Recipe, second: Recipe) -> dict[str, Any]:
    """Fields of the second that are not the first's; arguments one by one."""
    ours, theirs = (recipe.model_dump(exclude={"name", "seed"}) for recipe in (first, second))
    ours |= ours.pop("arguments")
    theirs |= theirs.pop("arguments")
    return {key: theirs.get(key) for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)}


def test_a_variation_has_what_it_says_and_the_rest_of_the_recipe() -> None:
    plain, other = of({"a": {}, "b": {"arguments": {"b": 1.25}, "epochs": 3}})
    assert plain == BASE.model_copy(update={"name": "a-seed4", "seed": 4})
    assert differing(BASE, other) == {"b": 1.25, "epochs": 3}
    assert (other.name, other.seed) == ("b-seed4", 4)


def test_models_come_in_the_order_in_which_they_are_named() -> None:
    values = {"recipe": "digits-natural", "seeds": (2, 0), "variations": {"a": {}, "b": {}}}
    said = Trainings.model_validate(values)
    found = list(vary(said, "suite mine"))
    assert [recipe.name for recipe in found] == list(said.models)
    assert [recipe.seed for recipe in found] == [2, 2, 0, 0]


def test_what_holds_for_all_holds_for_other_recipes_too_and_a_variation_has_the_last_word() -> None:
    common = {"epochs": 5, "arguments": {"norm": "layer"}}
    first, second = of({"a": {"recipe": "digits-natural"}, "b": {"epochs": 6}}, all=common)
    assert differing(RECIPES.load("digits-natural"), first) == {"epochs": 5, "norm": "layer"}
    assert differing(BASE, second) == {"epochs": 6, "norm": "layer"}


def test_a_recipe_of_ones_own_lies_beside_the_suite(tmp_path: Path) -> None:
    text = Path(str(RECIPES._files() / "digits-natural.toml")).read_text(encoding="utf-8")
    (tmp_path / "mine.toml").write_text(text.replace("epochs = 40", "epochs = 7"), encoding="utf-8")
    said = Trainings(recipe="mine.toml", seeds=(0,), variations={"a": {}})
    (found,) = vary(said, "suite s.toml", tmp_path)
    assert differing(RECIPES.load("digits-natural"), found) == {"epochs": 7}
    (tmp_path / "inside").mkdir()
    for folder in (tmp_path / "inside", None):
        outside = said.model_copy(update={"recipe": "../mine.toml"})
        with pytest.raises(
            RequestError, match=r"^suite s\.toml: recipe \.\./mine\.toml lies outside the suite's folder"
        ):
            list(vary(outside, "suite s.toml", folder))


@pytest.mark.parametrize(
    ("variation", "said"),
    [
        ({"epoch": 3}, "unknown key of suite mine, variation a 'epoch': did you mean 'epochs'?"),
        ({"epochs": 0}, "suite mine, variation a: epochs: input should be greater than 0, got 0"),
        ({"encoding": {"kind": "inverse"}}, "suite mine, variation a: encoding.kind: input should be "),
        ({"recipe": "digits-natrual"}, "unknown recipe 'digits-natrual': did you mean 'digits-natural'?"),
        ({"training": {"kind": "adversarial"}}, "norm and eps belong to kind 'adversarial'"),
    ],
)
def test_a_variation_that_does_not_fit_is_named(variation: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError) as caught:
        of({"a": variation})
    assert said in str(caught.value)


@pytest.mark.parametrize("suite", ["digits-ablations", "cifar10jpeg-ablations"])
def test_ablations_vary_one_thing_at_a_time(suite: str) -> None:
    said = SUITES.load(suite).trainings
    assert said is not None
    assert len(said.seeds) >= 3
    found = {recipe.name.removesuffix("-seed0"): recipe for recipe in vary(said, "suite") if recipe.seed == 0}
    centre = found.pop(CENTRE)
    assert (centre.arguments["b"], centre.arguments["norm"], centre.encoding.kind) == (
        2,
        "batch-uncentred",
        "add_inverse",
    )
    changes = {name: differing(centre, recipe) for name, recipe in found.items() if recipe.family == "bcos"}
    assert all(len(change) == 1 for change in changes.values())
    assert sorted(change["b"] for change in changes.values() if "b" in change) == [1, 1.25, 1.5, 1.75, 2.25, 2.5]
    norms = {change["norm"] for change in changes.values() if "norm" in change}
    assert norms == {name for name in NORM_LAYERS if not name.startswith("all")} - {"batch-uncentred"}
    assert {key for change in changes.values() for key in change} == {"b", "norm", "encoding", "max_out", "training"}
    conventional = {name: recipe.training.kind for name, recipe in found.items() if recipe.family == "conventional"}
    assert conventional == {"natural": "natural", "adv-l2": "adversarial"}


@pytest.mark.parametrize("suite", [name for name in SUITES.names() if SUITES.load(name).trainings is not None])
def test_models_of_a_suite_have_one_budget_and_can_be_built(suite: str) -> None:
    said = SUITES.load(suite).trainings
    assert said is not None
    recipes = list(vary(said, suite))
    assert len({(recipe.attack_steps, recipe.batch_size, recipe.half) for recipe in recipes}) == 1
    # Epochs differ where they are what is varied, and then in every variation.
    stated = {"epochs" in changes for changes in said.variations.values()}
    assert len(stated) == 1
    assert stated == {True} or len({recipe.epochs for recipe in recipes}) == 1
    for recipe in recipes:
        with torch.device("meta"):
            network = build_classifier(recipe).eval()
            assert network(torch.rand(2, 3, *recipe.image_size)).shape == (2, recipe.classes)


def test_models_that_are_kept_on_the_way_are_models_of_the_suite() -> None:
    said = Trainings(recipe="digits-bcos-b2", seeds=(4,), kept=(0, 0.5), variations={"a": {}, "b": {"epochs": 2}})
    assert said.models == (
        "a-epoch0-seed4",
        "a-epoch0.5-seed4",
        "a-seed4",
        "b-epoch0-seed4",
        "b-epoch0.5-seed4",
        "b-seed4",
    )
    assert [recipe.kept for recipe in vary(said, "mine")] == [(0, 0.5)] * 2


@pytest.mark.parametrize("kept", [(-1.0,), (2.5,), (1.0, 1.0)])
def test_models_are_kept_once_and_within_the_training(kept: tuple[float, ...]) -> None:
    said = Trainings(recipe="digits-bcos-b2", seeds=(0,), kept=kept, variations={"a": {"epochs": 2}})
    with pytest.raises(RequestError, match="numbers of epochs from 0 to 2, each once"):
        list(vary(said, "mine"))
