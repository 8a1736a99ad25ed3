"""Nothing left where the largest contributions were."""

from typing import final

import torch

from robustbench_bcos.attacks import GOALS
from robustbench_bcos.attacks.goal import AbstractGoal
from robustbench_bcos.core.maps import flat, top
from robustbench_bcos.core.types import Maps, PerImage


@final
@GOALS.registered("topk")
class TopK(AbstractGoal):
    """No positive contribution where the clean map has its largest 10 % (Ghorbani et al., 2019, top-k attack).

    They take magnitudes; contributions are signed here, and only positive ones can be among the largest.
    """

    def left(self, maps: Maps, references: Maps) -> PerImage:
        """Share of the positive contributions that these pixels have; NaN where there are no such pixels."""
        positive, pixels = flat(maps).clamp(min=0), top(references)
        share = (positive * pixels).sum(dim=1) / positive.sum(dim=1)
        return torch.where(pixels.any(dim=1), share, torch.nan)
