"""Whether the attack moved an encoding and not an image."""

from typing import final

from robustbench_bcos.bench.evidence import CHECKS
from robustbench_bcos.bench.evidence.check import AbstractVerdictsCheck
from robustbench_bcos.bench.evidence.verdicts import VerdictsContext


@final
@CHECKS.registered("space")
class Space(AbstractVerdictsCheck):
    """An attack on the six channels finds perturbations that no image has."""

    asks = "attacked in the space of the encoding, where r and 1 - r move apart and no picture is"
    rule = "any"

    def count(self, verdicts: VerdictsContext) -> tuple[int, int]:
        """All images, or none."""
        total = len(verdicts.attacked)
        return total, total if verdicts.cell.space != "image" else 0
