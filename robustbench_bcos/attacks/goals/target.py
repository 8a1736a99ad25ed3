"""The map of another image."""

from typing import final

from robustbench_bcos.attacks import GOALS
from robustbench_bcos.attacks.goal import AbstractGoal
from robustbench_bcos.core.maps import cosine, flat
from robustbench_bcos.core.types import Maps, PerImage


@final
@GOALS.registered("target")
class Target(AbstractGoal):
    """The map of another image, up to its scale (Dombrowski et al., 2019, who measure a distance of sums)."""

    of_another = True

    def left(self, maps: Maps, references: Maps) -> PerImage:
        """(1 - cosine) / 2."""
        return (1 - cosine(flat(maps), flat(references))) / 2
