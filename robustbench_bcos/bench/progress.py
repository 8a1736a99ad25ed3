"""What a run tells on its way."""

from typing import NamedTuple

from robustbench_bcos.bench.cells import Cell


class Progress(NamedTuple):
    """A batch of a cell that is done."""

    cell: Cell
    images: int
    work: str = "attack"
    """``attack`` or ``explanation``."""
