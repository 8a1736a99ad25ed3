"""Recipes as data: one TOML file each, from which ``train`` makes a model and its card."""

from typing import Literal

from pydantic import Field

from robustbench_bcos.core.tables import PackagedTables, Table
from robustbench_bcos.model_zoo.cards import ModelSpec


class Augmentation(Table):
    """Random changes of the training images."""

    flip: bool = False
    """Mirror left to right, half of the time."""
    crop: int = Field(default=0, ge=0)
    """Pad by so many black pixels on each side and cut the original size out at random."""


class LearnedB(Table):
    """How exponents follow the training, where ``arguments`` has ``learn_b``. They have no weight decay."""

    objective: Literal["descent", "minimax", "alignment"] = "minimax"
    """What B minimises beside the loss: nothing, which drives it to 1, since |y| falls as B grows; ``weight`` times
    the largest B; or minus ``weight`` times the alignment, the mean |cos| of what the layers put out."""
    weight: float = Field(default=0.1, ge=0)
    learning_rate: float = Field(default=0.02, gt=0)
    """The peak of the cycle, of exponents."""


class Recipe(ModelSpec):
    """A model and how it is trained: Adam or SGD with Nesterov momentum under a one-cycle learning rate."""

    loss: Literal["bce", "ce"]
    """What training minimises; a card may name further losses, of models that were trained elsewhere."""
    epochs: int = Field(gt=0)
    batch_size: int = Field(default=128, gt=1)
    optimiser: Literal["adam", "sgd"]
    learning_rate: float = Field(gt=0)
    """The peak of the cycle."""
    weight_decay: float = Field(default=0.0, ge=0)
    learned_b: LearnedB = LearnedB()
    augmentation: Augmentation = Augmentation()
    attack_steps: int = Field(default=7, gt=0)
    """PGD steps of adversarial training, from a random start; unused in natural training."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the products in the network while it is trained; weights, sums over batches and the loss are float32."""
    half: bool = False
    """Whether the weights are kept in half precision: rounded when training is over, before accuracy is measured."""
    seed: int = Field(default=0, ge=0)


RECIPES = PackagedTables("recipe", Recipe, "robustbench_bcos.training", "recipes")
