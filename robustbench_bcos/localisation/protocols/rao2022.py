"""The definition of Rao, Böhle and Schiele (2022), "Towards Better Understanding Attribution Methods"."""

from collections.abc import Sequence
from typing import final

from robustbench_bcos.localisation import PROTOCOLS
from robustbench_bcos.localisation.game import Scores, TargetMaps
from robustbench_bcos.localisation.protocol import SHARE, AbstractProtocol, in_cells, own_shares, smoothed
from robustbench_bcos.localisation.scene import Box

LEAST = 1e-7
"""Positive contributions up to which a map counts as empty."""


@final
@PROTOCOLS.registered("rao2022")
class Rao2022(AbstractProtocol):
    """Positive, not smoothed, the sum in the own cell over the sum in all; a map of at most 1e-7 in all scores 0.

    The threshold is absolute: a network with a large temperature in its last layer has all maps below it.
    """

    def kernel(self, cell: int) -> int:
        """No smoothing."""
        return 1

    def scores(self, maps: TargetMaps, cells: Sequence[Box], kernel: int) -> Scores:
        """Cut at 0."""
        shares, empty = own_shares(in_cells(smoothed(maps, kernel).clamp(min=0), cells), least=LEAST)
        return Scores(values={SHARE: shares.nan_to_num(0)}, empty=empty)
