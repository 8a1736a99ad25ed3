"""The best of the other classes."""

import torch
from torch import Tensor

from robustbench_bcos.core.types import Logits
from robustbench_bcos.explanations import CONTRASTS


@CONTRASTS.registered("runner_up")
def runner_up(logits: Logits) -> Tensor:
    """For each class the largest logit of any other."""
    first, second = logits.topk(2, dim=1).values.split(1, dim=1)
    is_first = torch.arange(logits.shape[1], device=logits.device) == logits.argmax(dim=1, keepdim=True)
    return torch.where(is_first, second, first)
