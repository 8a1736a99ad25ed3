"""Recipes as data: one TOML file each, from which ``train`` makes a model and its card."""

import json
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

from pydantic import Field, model_validator

from robustbench_bcos.core.disk import slug
from robustbench_bcos.core.tables import PackagedTables, Table
from robustbench_bcos.core.training_loss import TrainingLoss
from robustbench_bcos.model_zoo.cards import ModelSpec


class Augmentation(Table):
    """Random changes of the training images."""

    flip: bool = False
    """Mirror left to right, half of the time."""
    crop: int = Field(default=0, ge=0)
    """Pad by so many black pixels on each side and cut the original size out at random."""


class LearnedB(Table):
    """How exponents follow the training, where ``arguments`` or ``bcosified`` has ``learn_b``, without weight decay."""

    objective: Literal["descent", "minimax", "alignment"] = "minimax"
    """What B minimises beside the loss: nothing, which drives it to 1 where no norm makes up for |y|, which falls as B
    grows; ``weight`` times the largest B; or minus ``weight`` times the alignment, the mean |cos| of what layers put
    out."""
    weight: float = Field(default=0.1, ge=0)
    learning_rate: float = Field(default=0.02, gt=0)
    """The peak of the cycle, of exponents."""


class ScheduledB(Table):
    """A B that grows in a straight line to that of the network."""

    start: float = Field(default=1.0, ge=1)
    epochs: float = Field(gt=0)
    """After so many it is there."""


class Recipe(ModelSpec):
    """A model and how it is trained: Adam, AdamW, or SGD with Nesterov momentum."""

    start: str | None = None
    """The model whose weights training starts from, as ``run --model`` has it; with the table ``bcosified``, it is
    converted first. By default weights are random."""
    loss: TrainingLoss
    """What training minimises."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Part of each target that is spread over all classes."""
    epochs: int = Field(gt=0)
    kept: tuple[float, ...] = ()
    """Epochs, fractions included, after which the model is kept as one more, ``NAME-epoch0.5``; 0 is before the first
    step."""
    batch_size: int = Field(default=128, gt=1)
    optimiser: Literal["adam", "adamw", "sgd"]
    learning_rate: float = Field(gt=0)
    """The peak of the cycle, or the rate of the first epoch."""
    schedule: Literal["one-cycle", "cosine"] = "one-cycle"
    """Of the learning rate: up and down in one cycle, or down from the first epoch on."""
    clip_by_weights: float | None = Field(default=None, gt=0)
    """Largest ratio of a gradient's norm to that of the filter it moves (AGC); by default nothing is clipped."""
    scheduled_b: ScheduledB | None = None
    weight_decay: float = Field(default=0.0, ge=0)
    learned_b: LearnedB = LearnedB()
    augmentation: Augmentation = Augmentation()
    attack_steps: int = Field(default=7, gt=0)
    """PGD steps of adversarial training, from a random start; unused in natural training."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the products in the network while it is trained; weights, sums over batches and the loss are float32."""
    half: bool = False
    """Whether the weights are kept in half precision: rounded when training is over, before accuracy is measured."""
    float8_filters: bool = False
    """Whether filters of B-cos layers, whose length means nothing, are kept as float8 (four significant bits): rounded
    when training is over, before accuracy is measured."""
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _fields_fit_one_another(self) -> "Recipe":
        if any(not 0 <= epochs <= self.epochs for epochs in self.kept) or len(set(self.kept)) < len(self.kept):
            raise ValueError(f"kept must be numbers of epochs from 0 to {self.epochs}, each once")
        if self.scheduled_b is not None and self.family != "bcos":
            raise ValueError("scheduled_b belongs to B-cos networks: leave it out")
        learned = self.arguments.get("learn_b", "no") if self.bcosified is None else self.bcosified.learn_b
        if self.scheduled_b is not None and learned != "no":
            raise ValueError("scheduled_b sets the B that learn_b lets the training find: leave one of them out")
        if self.bcosified is not None and self.start is None:
            raise ValueError("bcosified needs start, the model that is converted")
        return self


RECIPES = PackagedTables(noun="recipe", kind=Recipe, package="robustbench_bcos.training", folder="recipes")


@dataclass(frozen=True, kw_only=True)
class Training:
    """One of the trainings that are asked for: a unit of work."""

    recipe: Recipe
    fold: tuple[int, int] | None = None
    """Which part of the training images is left out, and of how many."""

    @property
    def name(self) -> str:
        """As part of a file's name."""
        said = json.dumps([self.recipe.model_dump(mode="json"), self.fold], sort_keys=True)
        return f"train-{slug(self.recipe.name)}-{blake2b(said.encode(), digest_size=6).hexdigest()}"

    def __str__(self) -> str:
        return f"training of {self.recipe.name}"
