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

    Similarity- and scale-free. With two classes every such function is a sign, without a slope to follow, so the
    denominator becomes the gap itself, held constant: its direction is the margin's.
    """
    return margin(logits, labels) / (_gap(logits, thirds=1) + DLR_EPSILON)


def targeted_dlr(logits: Logits, labels: Labels, targets: Labels) -> PerImage:
    """Targeted DLR (Croce & Hein, 2020, eq. 7): target minus true logit, over the gap from first to third and fourth.

    With fewer than four classes, over the gap that ``dlr`` has. It is no loss by itself, because each image has its
    target: that of a batch is ``partial(targeted_dlr, targets=targets)``.
    """
    ahead = (logits.gather(1, targets[:, None]) - logits.gather(1, labels[:, None])).squeeze(1)
    return ahead / (_gap(logits, thirds=2) + DLR_EPSILON)


def _gap(logits: Logits, *, thirds: int) -> PerImage:
    """From the first logit to the mean of so many from the third on, as far as there are any."""
    ordered = logits.sort(dim=1, descending=True).values
    if logits.shape[1] == 2:
        return (ordered[:, 0] - ordered[:, 1]).detach()
    return ordered[:, 0] - ordered[:, 2 : 2 + thirds].mean(dim=1)


def _others(logits: Logits, labels: Labels) -> Tensor:
    return logits.scatter(1, labels[:, None], -torch.inf)
