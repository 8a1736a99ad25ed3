"""A protocol of one's own: the pointing game (Zhang et al., 2016), whether a map is largest in its own cell."""

from collections.abc import Sequence

import torch

from robustbench_bcos.localisation import PROTOCOLS
from robustbench_bcos.localisation.game import Scores, TargetMaps
from robustbench_bcos.localisation.protocol import SHARE, AbstractProtocol, smoothed
from robustbench_bcos.localisation.scene import Box


@PROTOCOLS.registered("pointing")
class Pointing(AbstractProtocol):
    """1 for a hit, 0 for a miss."""

    def kernel(self, cell: int) -> int:
        """No smoothing."""
        return 1

    def scores(self, maps: TargetMaps, cells: Sequence[Box], kernel: int) -> Scores:
        """Where the largest contribution is."""
        found = smoothed(maps, kernel)
        largest = torch.stack([cell.cut(found).flatten(1).amax(dim=1) for cell in cells], dim=1)
        hits = largest.argmax(dim=1) == torch.arange(len(cells))
        return Scores(values={SHARE: hits.double()}, empty=largest.amax(dim=1) <= 0)
