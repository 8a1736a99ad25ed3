"""How far two networks' answers to the same images are apart."""

from robustbench_bcos.core.types import Logits

SAME = 1e-4
"""Difference of logits, as a part of an image's range of them, that counts as rounding. Networks of this package differ
by 1e-5 and less from their exports."""


def apart(logits: Logits, expected: Logits) -> float:
    """Largest difference, as a part of the range of an image's logits; NaN where an answer is not finite."""
    away = (logits.double() - expected.double()).abs().amax(dim=1)
    spread = (expected.amax(dim=1) - expected.amin(dim=1)).double()
    return float((away / spread.where(spread > 0, spread.new_ones(()))).max())
