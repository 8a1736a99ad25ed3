"""Forecasters as files: weights as safetensors, beside a TOML card with the recipe and the ranges of the data."""

from pathlib import Path

import numpy as np
import tomli_w

from robustbench_bcos.core.disk import write_text
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.tables import Table, read_table
from robustbench_bcos.model_zoo.checkpoints.assign import assign_weights
from robustbench_bcos.model_zoo.checkpoints.read import read_content
from robustbench_bcos.model_zoo.checkpoints.write import write_weights
from robustbench_bcos.model_zoo.classifier import freeze
from robustbench_bcos.model_zoo.digests import sha256_of
from robustbench_bcos.regression.data import Scale
from robustbench_bcos.regression.recipe import Recipe
from robustbench_bcos.regression.training import Trained, make_forecaster


class Range(Table):
    """Smallest and largest values in the training data, by quantity."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    @property
    def scale(self) -> Scale:
        """As arrays."""
        return Scale(low=np.array(self.low), high=np.array(self.high))

    @classmethod
    def of(cls, scale: Scale) -> "Range":
        """As numbers."""
        return cls(low=tuple(scale.low.tolist()), high=tuple(scale.high.tolist()))


class ForecasterCard(Table):
    """What is needed to load a forecaster, and to scale its inputs."""

    recipe: Recipe
    fold: tuple[int, int] | None = None
    """Which part of the trajectories was left out, and of how many."""
    times: tuple[float, ...]
    states: Range
    parameters: Range
    sha256: str


def write_forecaster(trained: Trained, times: tuple[float, ...], folder: Path, fold: tuple[int, int] | None) -> None:
    """``NAME.safetensors`` and ``NAME.toml``."""
    name = trained.recipe.name
    card = ForecasterCard(
        recipe=trained.recipe,
        fold=fold,
        times=times,
        states=Range.of(trained.states),
        parameters=Range.of(trained.parameters),
        sha256=write_weights(trained.model, folder / f"{name}.safetensors"),
    )
    write_text(folder / f"{name}.toml", tomli_w.dumps(card.model_dump(mode="json", exclude_none=True)))


def forecasters_in(folder: Path) -> list[Path]:
    """Cards of a folder that ``dynamics train`` has written.

    Raises:
        RequestError: there are none.
    """
    cards = sorted(file for file in folder.glob("*.toml") if file.with_suffix(".safetensors").is_file())
    if not cards:
        raise RequestError(f"{folder} has no forecasters: give the folder that `dynamics train` wrote to")
    return cards


def read_forecaster(file: Path) -> tuple[Trained, ForecasterCard]:
    """A forecaster from its card.

    Raises:
        RequestError: card or weights cannot be read, or do not fit each other.
    """
    card = read_table(ForecasterCard, file)
    weights = file.with_suffix(".safetensors")
    found = sha256_of(weights)
    if found != card.sha256:
        raise RequestError(f"weights {weights} have SHA-256 {found}, expected {card.sha256}: train the model again")
    model = make_forecaster(card.recipe, np.array(card.times))
    content = read_content(weights).value
    assert isinstance(content, dict)
    assign_weights(model, content, weights)
    freeze(model)
    return Trained(recipe=card.recipe, model=model, states=card.states.scale, parameters=card.parameters.scale), card
