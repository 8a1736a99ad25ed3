"""The difference of logits ratio."""

from robustbench_bcos.attacks import LOSSES
from robustbench_bcos.attacks.losses.margin import margin
from robustbench_bcos.core.types import Labels, Logits, PerImage

DLR_EPSILON = 1e-12


@LOSSES.registered("dlr")
def dlr(logits: Logits, labels: Labels) -> PerImage:
    """Difference of logits ratio (Croce & Hein, 2020, eq. 6): the margin over the gap from first to third logit.

    Shift- and scale-free. With two classes every such function is a sign, without a slope to follow, so the
    denominator becomes the gap itself, held constant: its direction is the margin's.
    """
    return margin(logits, labels) / (_gap(logits, thirds=1) + DLR_EPSILON)


def targeted_dlr(logits: Logits, labels: Labels, targets: Labels) -> PerImage:
    """Targeted DLR (Croce & Hein, 2020, eq. 7): target minus true logit, over the gap from first to third and fourth.

    With fewer than four classes, over the gap that ``dlr`` has.
    """
    ahead = (logits.gather(1, targets[:, None]) - logits.gather(1, labels[:, None])).squeeze(1)
    return ahead / (_gap(logits, thirds=2) + DLR_EPSILON)


def _gap(logits: Logits, *, thirds: int) -> PerImage:
    """From the first logit to the mean of so many from the third on, as far as there are any."""
    ordered = logits.sort(dim=1, descending=True).values
    if logits.shape[1] == 2:
        return (ordered[:, 0] - ordered[:, 1]).detach()
    return ordered[:, 0] - ordered[:, 2 : 2 + thirds].mean(dim=1)
