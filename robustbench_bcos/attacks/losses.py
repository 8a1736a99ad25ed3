"""What an attack ascends: per image, the larger the more adversarial. Each takes logits and labels."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_bcos.core.registry import Registry
from robustbench_bcos.core.types import Labels, Logits, PerImage

Loss = Callable[[Logits, Labels], PerImage]

LOSSES: Registry[Loss] = Registry("loss")

DLR_EPSILON = 1e-12


@LOSSES.registered("bce")
def bce(logits: Logits, labels: Labels) -> PerImage:
    """Binary cross-entropy against the one-hot label, mean over classes: what B-cos networks are trained with.

    Written with softplus and evaluated in float64: the slope at a true logit z is exp(-z), which the common form
    rounds to 0 from z = 17 and float32 from z = 104; here it lasts to z = 745.
    """
    signs = 1.0 - 2.0 * F.one_hot(labels, logits.shape[1]).to(torch.float64)
    return F.softplus(signs * logits.double()).mean(dim=1)


@LOSSES.registered("ce")
def ce(logits: Logits, labels: Labels) -> PerImage:
    """Softmax cross-entropy in the logits' own precision, as every peer has it.

    In float32 its slope along the true logit rounds to 0 at margins above 17, and all of it above 104. For float64
    logits it is written with softplus, so that the slope lasts to margins of 745. ``margin`` and ``dlr`` do not
    saturate.
    """
    if logits.dtype == torch.float64:
        true = logits.gather(1, labels[:, None]).squeeze(1)
        return F.softplus(_others(logits, labels).logsumexp(dim=1) - true)
    return F.cross_entropy(logits, labels, reduction="none")


@LOSSES.registered("margin")
def margin(logits: Logits, labels: Labels) -> PerImage:
    """Best wrong logit minus true logit; positive exactly where the prediction is wrong."""
    true = logits.gather(1, labels[:, None]).squeeze(1)
    return _others(logits, labels).amax(dim=1) - true


@LOSSES.registered("dlr")
def dlr(logits: Logits, labels: Labels) -> PerImage:
    """Difference of logits ratio (Croce & Hein, 2020, eq. 6): the margin over the gap from first to third logit.

    Shift- and scale-free. With two classes every such function is a sign, without a slope to follow, so the
    denominator becomes the gap itself, held constant: its direction is the margin's.
    """
    ordered = logits.sort(dim=1, descending=True).values
    gap = ordered[:, 0] - ordered[:, 2] if logits.shape[1] > 2 else (ordered[:, 0] - ordered[:, 1]).detach()
    return margin(logits, labels) / (gap + DLR_EPSILON)


def _others(logits: Logits, labels: Labels) -> Tensor:
    return logits.scatter(1, labels[:, None], -torch.inf)
