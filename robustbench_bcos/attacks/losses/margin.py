"""The margin."""

from robustbench_bcos.attacks import LOSSES
from robustbench_bcos.attacks.loss import other_logits
from robustbench_bcos.core.types import Labels, Logits, PerImage


@LOSSES.registered("margin")
def margin(logits: Logits, labels: Labels) -> PerImage:
    """Best wrong logit minus true logit; positive exactly where the prediction is wrong."""
    true = logits.gather(1, labels[:, None]).squeeze(1)
    return other_logits(logits, labels).amax(dim=1) - true
