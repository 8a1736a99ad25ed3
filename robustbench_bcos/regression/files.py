"""Forecasters as files: weights as safetensors, beside a TOML card with the recipe and the ranges of the data."""

from pathlib import Path

import numpy as np
import tomli_w

from robustbench_bcos.core.disk import write_text
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.tables import read_table
from robustbench_bcos.model_zoo.checkpoints.assign import assign_weights
from robustbench_bcos.model_zoo.checkpoints.read import read_content
from robustbench_bcos.model_zoo.checkpoints.write import write_weights
from robustbench_bcos.model_zoo.classifier import freeze
from robustbench_bcos.model_zoo.digests import sha256_of
from robustbench_bcos.regression.cards import ForecasterCard, Range
from robustbench_bcos.regression.training import Trained, make_forecaster


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
    card = card.model_copy(update={"card_sha256": card.digest})
    write_text(folder / f"{name}.toml", tomli_w.dumps(card.model_dump(mode="json", exclude_none=True)))


def read_forecaster(file: Path) -> tuple[Trained, ForecasterCard]:
    """A forecaster from its card.

    Raises:
        RequestError: card or weights cannot be read, or do not fit each other.
    """
    card = read_table(ForecasterCard, file)
    if card.card_sha256 != card.digest:
        raise RequestError(f"{file} is not as it was written: train the model again")
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
