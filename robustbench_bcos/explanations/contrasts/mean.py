"""All classes."""

from torch import Tensor

from robustbench_bcos.core.types import Logits
from robustbench_bcos.explanations import CONTRASTS


@CONTRASTS.registered("mean")
def mean(logits: Logits) -> Tensor:
    """The mean of all logits; of texts, the cosine with their mean."""
    return logits.mean(dim=1, keepdim=True)
