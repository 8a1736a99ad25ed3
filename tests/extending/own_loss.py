"""A loss of one's own: how far the mean of the wrong logits is ahead of the true one. It never saturates."""

from robustbench_bcos.attacks import LOSSES
from robustbench_bcos.core.types import Labels, Logits, PerImage


@LOSSES.registered("mean_gap")
def mean_gap(logits: Logits, labels: Labels) -> PerImage:
    true = logits.gather(1, labels[:, None]).squeeze(1)
    return (logits.sum(dim=1) - true) / (logits.shape[1] - 1) - true
