"""A criterion of one's own: the label is not even among the likeliest classes, ``not_in_top`` or ``not_in_top:3``."""

from dataclasses import dataclass

from torch import Tensor

from robustbench_bcos.attacks import CRITERIA
from robustbench_bcos.attacks.criterion import AbstractCriterion
from robustbench_bcos.attacks.loss import other_logits
from robustbench_bcos.core.types import Flags, Goals, PerImage


@CRITERIA.registered("not_in_top")
@dataclass(frozen=True)
class NotInTop(AbstractCriterion):
    """Top-k error; goals are the labels."""

    k: int = 2

    @classmethod
    def parse(cls, argument: str) -> "NotInTop":
        return cls(int(argument or "2"))

    def success(self, outputs: Tensor, goals: Goals) -> Flags:
        return (self.nearness(outputs, goals) > 0) | ~outputs.isfinite().all(dim=1)

    def nearness(self, outputs: Tensor, goals: Goals) -> PerImage:
        outputs = outputs.double()
        last = other_logits(outputs, goals).topk(self.k, dim=1).values[:, -1]
        return last - outputs.gather(1, goals[:, None]).squeeze(1)

    def __str__(self) -> str:
        return f"{self.name}:{self.k}"
