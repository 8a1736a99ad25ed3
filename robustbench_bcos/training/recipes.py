"""Recipes as data: one TOML file each, from which ``train`` makes a model and its card."""

from importlib.resources import files
from pathlib import Path
from typing import Literal

from pydantic import Field

from robustbench_bcos.core.registry import unknown
from robustbench_bcos.core.tables import Table, read_table
from robustbench_bcos.model_zoo.cards import ModelSpec


class Augmentation(Table):
    """Random changes of the training images."""

    flip: bool = False
    """Mirror left to right, half of the time."""
    crop: int = Field(default=0, ge=0)
    """Pad by so many black pixels on each side and cut the original size out at random."""


class Recipe(ModelSpec):
    """A model and how it is trained: Adam or SGD with Nesterov momentum under a one-cycle learning rate."""

    epochs: int = Field(gt=0)
    batch_size: int = Field(default=128, gt=1)
    optimiser: Literal["adam", "sgd"]
    learning_rate: float = Field(gt=0)
    """The peak of the cycle."""
    weight_decay: float = Field(default=0.0, ge=0)
    augmentation: Augmentation = Augmentation()
    attack_steps: int = Field(default=7, gt=0)
    """PGD steps of adversarial training, from a random start; unused in natural training."""
    seed: int = Field(default=0, ge=0)


def recipe_names() -> list[str]:
    """Names of the packaged recipes."""
    return sorted(file.name.removesuffix(".toml") for file in _packaged().iterdir() if file.name.endswith(".toml"))


def load_recipe(name_or_file: str) -> Recipe:
    """A packaged recipe by name, or one's own by path.

    Raises:
        RequestError: no such recipe, or it does not fit.
    """
    if name_or_file.endswith(".toml"):
        return read_table(Recipe, Path(name_or_file))
    if name_or_file not in recipe_names():
        raise unknown("recipe", name_or_file, recipe_names())
    return read_table(Recipe, _packaged() / f"{name_or_file}.toml")


def _packaged() -> Path:
    return Path(str(files("robustbench_bcos.training"))) / "recipes"
