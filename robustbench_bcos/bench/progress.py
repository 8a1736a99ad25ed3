"""What a stage hands to the runner: rows to be written, and how much of a cell is done."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from robustbench_bcos.bench.cells import Cell
from robustbench_bcos.bench.rows import Row


@runtime_checkable
class Step(Protocol):
    """A piece of work that is done, as a display of progress sees it."""

    @property
    def images(self) -> int:
        """How many it counts for."""

    @property
    def rows(self) -> tuple[Row, ...]:
        """What it found; none where the work was found done."""

    @property
    def under_way(self) -> float:
        """What is done of the images that are worked on, in images; they count when they are done."""

    @property
    def stage(self) -> str:
        """What is being done to them, in words."""

    @property
    def model(self) -> str:
        """The model that is worked on."""

    @property
    def key(self) -> str:
        """The piece of work that it is a part of."""

    @property
    def subject(self) -> str:
        """The same, to be read."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A piece of a cell that is done."""

    cell: Cell
    images: int
    """Images of the cell that it counts for in a display of progress."""
    rows: tuple[Row, ...] = ()
    """To be written in one transaction; none where the work was found done."""
    under_way: float = 0.0
    """What is done of the images that are worked on, in images; they count when they are done."""
    stage: str = ""
    """What is being done to them, in words."""

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
        """Model, threat and attack of the cell."""
        return f"{self.cell.model} {self.cell.threat} {self.cell.attack.name}"
