"""Binary cross-entropy."""

import torch
import torch.nn.functional as F

from robustbench_bcos.attacks import LOSSES
from robustbench_bcos.core.types import Labels, Logits, PerImage


@LOSSES.registered("bce")
def bce(logits: Logits, labels: Labels) -> PerImage:
    """Binary cross-entropy against the one-hot label, mean over classes: what B-cos networks are trained with.

    Written with softplus and evaluated in float64: the slope at a true logit z is exp(-z), which the common form
    rounds to 0 from z = 17 and float32 from z = 104; here it lasts to z = 745.
    """
    signs = 1.0 - 2.0 * F.one_hot(labels, logits.shape[1]).to(torch.float64)
    return F.softplus(signs * logits.double()).mean(dim=1)
