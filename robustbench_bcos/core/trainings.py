"""What a suite may have trained before it attacks: one recipe, variations of it, and seeds; and what is called how."""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.registry import unknown
from robustbench_bcos.core.tables import Table

ENDING = ".log.csv"
"""Of the log of a training."""

REPEATED = re.compile(r"-(?:seed|fold)\d+$")
"""How a model that was trained with one of several seeds, or without one of several folds, is called."""


class Trainings(Table):
    """Every variation with every seed; ``train --suite`` makes the models, and ``run --suite`` attacks them."""

    recipe: str
    """What variations are variations of: a packaged recipe, or a file beside the suite."""
    seeds: tuple[int, ...] = Field(min_length=1)
    all: dict[str, Any] = Field(default_factory=dict)
    """Fields of the recipe that every variation has otherwise."""
    kept: tuple[float, ...] = ()
    """Epochs after which each training's model is kept as one more, as a recipe's ``kept`` has them."""
    variations: dict[str, dict[str, Any]] = Field(min_length=1)
    """By name, the fields that it alone has otherwise; ``recipe`` among them is another to begin with."""

    @field_validator("seeds")
    @classmethod
    def _each_seed_once(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds) or min(seeds) < 0:
            raise ValueError("seeds must be numbers of at least 0, each once")
        return seeds

    @property
    def models(self) -> tuple[str, ...]:
        """What the models are called, seed by seed, so that a part of them is a part of each variation's."""
        trained = (name_of(variation, seed) for seed in self.seeds for variation in self.variations)
        return tuple(name for model in trained for name in (*(kept_name(model, epochs) for epochs in self.kept), model))


def name_of(recipe: str, seed: int) -> str:
    """What the model is called that a recipe gives with one of several seeds."""
    return f"{recipe}-seed{seed}"


def kept_name(model: str, epochs: float) -> str:
    """What a model is called that was kept on the way to another: ``mine-epoch0.5-seed0``."""
    recipe = REPEATED.sub("", model)
    return f"{recipe}-epoch{epochs:g}{model.removeprefix(recipe)}"


def find_logs(folder: Path, patterns: Sequence[str] = ()) -> dict[str, Path]:
    """The logs in a folder, by the name of the model.

    Args:
        folder: what ``train`` wrote to.
        patterns: names of models, or globs; by default all.

    Raises:
        RequestError: there is none, or none of that name.
    """
    files = {file.name.removesuffix(ENDING): file for file in sorted(folder.glob(f"*{ENDING}"))}
    if not files:
        raise RequestError(f"{folder} has no logs of trainings (*{ENDING}): give the folder that `train` wrote to")
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in files):
            raise unknown("training", pattern, files)
    return {
        name: file
        for name, file in files.items()
        if not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)
    }
