"""The definition of this package."""

from collections.abc import Sequence
from typing import final

from robustbench_bcos.localisation import PROTOCOLS
from robustbench_bcos.localisation.game import Scores, TargetMaps
from robustbench_bcos.localisation.protocol import SHARE, AbstractProtocol, in_cells, own_shares, smoothed
from robustbench_bcos.localisation.scene import Box

SMOOTH = 15 / 224
"""Side of the window as a share of the cell's: the customary 15 pixels were made for cells of 224."""


@final
@PROTOCOLS.registered("ours")
class Ours(AbstractProtocol):
    """Smoothed, positive, the sum in the own cell over the sum in all; an empty map has no score.

    The window grows with the cell. One of 15 pixels would blur a cell of 8 until not even an oracle scores more than
    0.48.
    """

    def kernel(self, cell: int) -> int:
        """The nearest odd number of pixels."""
        return 2 * round((SMOOTH * cell - 1) / 2) + 1

    def scores(self, maps: TargetMaps, cells: Sequence[Box], kernel: int) -> Scores:
        """Signed maps are smoothed, then cut at 0."""
        shares, empty = own_shares(in_cells(smoothed(maps, kernel).clamp(min=0), cells))
        return Scores(values={SHARE: shares}, empty=empty)
