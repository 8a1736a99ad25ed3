"""Whether the model knows what no picture holds."""

from typing import final

from robustbench_bcos.bench.evidence import CHECKS
from robustbench_bcos.bench.evidence.check import AbstractVerdictsCheck
from robustbench_bcos.bench.evidence.verdicts import VerdictsContext


@final
@CHECKS.registered("off_the_grid")
class OffTheGrid(AbstractVerdictsCheck):
    """Pixels that are no multiples of 1/255 give an attack away; a model may answer them from memory."""

    asks = "broken only once the attack's last image was rounded to k/255"
    rule = "search"

    def count(self, verdicts: VerdictsContext) -> tuple[int, int]:
        """Images that count as broken, and were not before they were rounded."""
        return len(verdicts.attacked), sum(row.rounded for row in verdicts.attacked)
