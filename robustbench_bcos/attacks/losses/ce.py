"""Softmax cross-entropy."""

import torch
import torch.nn.functional as F

from robustbench_bcos.attacks import LOSSES
from robustbench_bcos.attacks.loss import other_logits
from robustbench_bcos.core.types import Labels, Logits, PerImage


@LOSSES.registered("ce")
def ce(logits: Logits, labels: Labels) -> PerImage:
    """Softmax cross-entropy in the logits' own precision, as every peer has it.

    In float32 its slope along the true logit rounds to 0 at margins above 17, and all of it above 104. For float64
    logits it is written with softplus, so that the slope lasts to margins of 745. ``margin`` and ``dlr`` do not
    saturate.
    """
    if logits.dtype == torch.float64:
        true = logits.gather(1, labels[:, None]).squeeze(1)
        return F.softplus(other_logits(logits, labels).logsumexp(dim=1) - true)
    return F.cross_entropy(logits, labels, reduction="none")
