"""Scores of models that take images of one size: a map that is put together from many predictions."""

from collections.abc import Sequence
from typing import final

from robustbench_bcos.core.types import Tensor
from robustbench_bcos.localisation import PROTOCOLS
from robustbench_bcos.localisation.game import Explainer, Scores, TargetMaps
from robustbench_bcos.localisation.protocol import SHARE, AbstractProtocol, in_cells, own_shares, smoothed
from robustbench_bcos.localisation.scene import Box


@final
@PROTOCOLS.registered("windowed")
class Windowed(AbstractProtocol):
    """The class of each cell is explained in windows of one cell, half a cell apart; maps are averaged where they meet.

    As published for vision transformers. No prediction of the grid is explained: it is a mean over (2g-1)^2
    predictions of parts, in each of which most classes are not to be seen. Not comparable with the other protocols.
    """

    whole = False

    def kernel(self, cell: int) -> int:
        """No smoothing."""
        return 1

    def scores(self, maps: TargetMaps, cells: Sequence[Box], kernel: int) -> Scores:
        """Positive shares; an empty map has none."""
        shares, empty = own_shares(in_cells(smoothed(maps, kernel).clamp(min=0), cells))
        return Scores(values={SHARE: shares}, empty=empty)

    def shown(self, picture: Tensor, cells: Sequence[Box]) -> Tensor:
        """The first window."""
        return cells[0].cut(picture)

    def maps(self, explainer: Explainer, pictures: Tensor, targets: Tensor, cells: Sequence[Box]) -> Tensor:
        """Means of the windows' maps."""
        height, width = pictures.shape[2:]
        total = pictures.new_zeros(*targets.shape, height, width)
        count = pictures.new_zeros(height, width)
        for window in _windows(height, width, cells[0]):
            window.cut(total).add_(explainer(window.cut(pictures).contiguous(), targets))
            window.cut(count).add_(1)
        return total / count.clamp(min=1)


def _windows(height: int, width: int, cell: Box) -> list[Box]:
    tops, lefts = _starts(height, cell.height), _starts(width, cell.width)
    return [Box(top=top, left=left, height=cell.height, width=cell.width) for top in tops for left in lefts]


def _starts(length: int, part: int) -> list[int]:
    """Where parts begin, half a part apart; the last ends with the picture."""
    return sorted({*range(0, length - part, max(1, part // 2)), length - part})
