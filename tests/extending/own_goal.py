"""A goal of one's own: all positive contributions in the left half of the map."""

from robustbench_bcos.attacks import GOALS
from robustbench_bcos.attacks.goal import AbstractGoal
from robustbench_bcos.core.types import Maps, PerImage


@GOALS.registered("left_half")
class LeftHalf(AbstractGoal):
    def left(self, maps: Maps, references: Maps) -> PerImage:
        positive = maps.double().clamp(min=0)
        right = positive[:, :, maps.shape[2] // 2 :]
        return right.sum(dim=(1, 2)) / positive.sum(dim=(1, 2))
