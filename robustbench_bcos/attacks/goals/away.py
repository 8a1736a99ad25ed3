"""The least similar map."""

from typing import final

from robustbench_bcos.attacks import GOALS
from robustbench_bcos.attacks.goal import AbstractGoal
from robustbench_bcos.core.maps import cosine, flat
from robustbench_bcos.core.types import Maps, PerImage


@final
@GOALS.registered("away")
class Away(AbstractGoal):
    """As far from the clean map as the angle between two maps can be: its negative is at the end of the way."""

    elsewhere = "topk"

    def left(self, maps: Maps, references: Maps) -> PerImage:
        """(1 + cosine) / 2."""
        return (1 + cosine(flat(maps), flat(references))) / 2
