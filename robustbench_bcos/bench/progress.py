"""What a stage hands to the runner: rows to be written, and how much of a piece of work is done."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

from robustbench_bcos.bench.cells import Cell
from robustbench_bcos.bench.rows import Row


@dataclass(frozen=True, kw_only=True)
class Step(ABC):
    """A part of a piece of work that is done."""

    images: int
    """Images that it counts for in a display of progress."""
    rows: tuple[Row, ...] = ()
    """To be written in one transaction; none where the work was found done."""
    under_way: float = 0.0
    """What is done of the images that are worked on, in images; they count when they are done."""
    stage: str = ""
    """What is being done to them, in words."""

    @property
    @abstractmethod
    def model(self) -> str:
        """The model that is worked on."""

    @property
    @abstractmethod
    def key(self) -> str:
        """The piece of work."""

    @property
    @abstractmethod
    def subject(self) -> str:
        """The same, to be read."""


@final
@dataclass(frozen=True, kw_only=True)
class Progress(Step):
    """A part of a cell that is done."""

    cell: Cell

    @property
    def model(self) -> str:
        """The cell's model."""
        return self.cell.model

    @property
    def key(self) -> str:
        """The cell's key."""
        return self.cell.key

    @property
    def subject(self) -> str:
        """Model, threat and attack of the cell, and what is unusual about the attack."""
        attack = self.cell.attack
        # What is left to the model depends on the model.
        said = [f"{option}={value}" for option, value in attack.unusual.items() if value != "auto"]
        return " ".join([self.cell.model, str(self.cell.threat), attack.name, *said])
