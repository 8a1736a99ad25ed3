"""What a stage hands to the runner: rows to be written, and how much of a cell is done."""

from dataclasses import dataclass

from robustbench_bcos.bench.cells import Cell
from robustbench_bcos.bench.rows import Row


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A piece of work that is done."""

    cell: Cell
    images: int
    """Images of the cell that it counts for in a display of progress."""
    rows: tuple[Row, ...] = ()
    """To be written in one transaction; none where the work was found done."""
    under_way: float = 0.0
    """What is done of the images that are worked on, in images; they count when they are done."""
    stage: str = ""
    """What is being done to them, in words."""
