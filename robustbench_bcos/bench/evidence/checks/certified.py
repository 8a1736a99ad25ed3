"""Whether what was proved is contradicted by what was found."""

from typing import final

from robustbench_bcos.bench.evidence import CHECKS
from robustbench_bcos.bench.evidence.check import AbstractVerdictsCheck
from robustbench_bcos.bench.evidence.verdicts import VerdictsContext


@final
@CHECKS.registered("certified")
class Certified(AbstractVerdictsCheck):
    """No perturbation that succeeds is smaller than what was certified, or one of the two is wrong."""

    asks = "broken by less than what is certified"
    rule = "any"
    always = True

    def count(self, verdicts: VerdictsContext) -> tuple[int, int]:
        """Images of which something was certified, and those of them that are broken by less."""
        return sum(row.certified is not None for row in verdicts.distances), len(self._violations(verdicts))

    def finding(self, verdicts: VerdictsContext) -> str:
        """The first of them."""
        image, certified, found = self._violations(verdicts)[0]
        return f"image {image} is certified to {certified:g} and broken by {found:g}"

    def _violations(self, verdicts: VerdictsContext) -> list[tuple[int, float, float]]:
        sizes = {row.image: row.size for row in verdicts.attacked if row.success}
        violations = []
        for row in verdicts.distances:
            found = min(size for size in (row.high, sizes.get(row.image), float("inf")) if size is not None)
            if row.certified is not None and found < row.certified:
                violations.append((row.image, row.certified, found))
        return violations
