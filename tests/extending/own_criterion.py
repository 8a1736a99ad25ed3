"""A criterion of one's own: the label is not even among the two likeliest classes."""

from dataclasses import dataclass

from torch import Tensor

from robustbench_bcos.attacks import CRITERIA
from robustbench_bcos.attacks.criterion import AbstractCriterion
from robustbench_bcos.attacks.loss import other_logits
from robustbench_bcos.core.types import Flags, Goals, PerImage


@CRITERIA.registered("not_in_top2")
@dataclass(frozen=True)
class NotInTopTwo(AbstractCriterion):
    """Top-2 error; goals are the labels."""

    def success(self, outputs: Tensor, goals: Goals) -> Flags:
        return (self.nearness(outputs, goals) > 0) | ~outputs.isfinite().all(dim=1)

    def nearness(self, outputs: Tensor, goals: Goals) -> PerImage:
        outputs = outputs.double()
        second = other_logits(outputs, goals).topk(2, dim=1).values[:, 1]
        return second - outputs.gather(1, goals[:, None]).squeeze(1)
