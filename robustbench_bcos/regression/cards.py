"""Cards of forecasters, which can be read without torch."""

from hashlib import sha256
from pathlib import Path

import numpy as np

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.tables import Table
from robustbench_bcos.regression.data import Scale
from robustbench_bcos.regression.recipe import Recipe


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
    """Of the weights."""
    card_sha256: str = ""
    """Of all the rest of the card, which nobody writes by hand: another range would be another forecaster."""

    @property
    def digest(self) -> str:
        """What ``card_sha256`` has to be."""
        return sha256(self.model_dump_json(exclude={"card_sha256"}).encode()).hexdigest()


def forecasters_in(folder: Path) -> list[Path]:
    """Cards of a folder that ``dynamics train`` has written.

    Raises:
        RequestError: there are none.
    """
    cards = sorted(file for file in folder.glob("*.toml") if file.with_suffix(".safetensors").is_file())
    if not cards:
        raise RequestError(f"{folder} has no forecasters: give the folder that `dynamics train` wrote to")
    return cards
