"""What checks read of a run without asking a model: reading a run needs no torch."""

from collections.abc import Sequence
from dataclasses import dataclass

from robustbench_bcos.bench.cells import Cell
from robustbench_bcos.bench.rows import CleanRow, DistanceRow, VerdictRow


@dataclass(frozen=True, kw_only=True)
class VerdictsContext:
    """What a run has recorded of a cell, and of the other cells of its model."""

    cell: Cell
    classes: int
    clean: Sequence[CleanRow]
    """Predictions without an attack, of all images."""
    attacked: Sequence[VerdictRow]
    """Verdicts of the images that were attacked."""
    robust: frozenset[int]
    """Images that the attack did not break."""
    broken_by_same_attack: frozenset[int]
    """Images that the same attack broke within a smaller epsilon."""
    broken_by_other_attacks: frozenset[int]
    """Images that another attack broke within this epsilon, or a smaller one."""
    adversarial: bool = False
    """Whether the images were made to be misclassified."""
    distances: Sequence[DistanceRow] = ()
    """Distances of the model in the cell's norm, as far as they have been measured."""
