"""Recipes that differ from one another in what a suite says, and in nothing else."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.tables import parse_table
from robustbench_bcos.core.trainings import Trainings, name_of
from robustbench_bcos.training.recipes import RECIPES, Recipe


def vary(trainings: Trainings, origin: str, folder: Path | None = None) -> Iterator[Recipe]:
    """A recipe for each model, in the order of ``trainings.models``.

    Args:
        trainings: the part of a suite.
        origin: the suite, for messages.
        folder: where recipes lie that are named by their files.

    Raises:
        RequestError: a recipe is not to be found, lies outside the folder, or has no such field.
    """
    for seed in trainings.seeds:
        for variation, changes in trainings.variations.items():
            own = dict(changes)
            base = _load(str(own.pop("recipe", trainings.recipe)), origin, folder)
            values = _merged(_merged(base.model_dump(exclude_none=True), trainings.all), own)
            values |= {"name": name_of(variation, seed), "seed": seed}
            if trainings.kept:
                values["kept"] = trainings.kept
            yield parse_table(Recipe, values, f"{origin}, variation {variation}")


def _load(recipe: str, origin: str, folder: Path | None) -> Recipe:
    if not recipe.endswith(".toml"):
        return RECIPES.load(recipe)
    file = ((folder or Path()) / recipe).resolve()
    if folder is None or not file.is_relative_to(folder.resolve()):
        raise RequestError(f"{origin}: recipe {recipe} lies outside the suite's folder: move it there")
    return RECIPES.load(str(file))


def _merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Tables are merged key by key, everything else is replaced."""
    merged = dict(values)
    for key, change in changes.items():
        before = merged.get(key)
        merged[key] = _merged(before, change) if isinstance(before, Mapping) and isinstance(change, Mapping) else change
    return merged
