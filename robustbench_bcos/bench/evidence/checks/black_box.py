"""Whether a search without gradients breaks what gradients did not."""

from collections.abc import Sequence
from typing import final

from robustbench_bcos.attacks.attack import AbstractAttack
from robustbench_bcos.attacks.searches.square import Square
from robustbench_bcos.bench.evidence import CHECKS
from robustbench_bcos.bench.evidence.check import AbstractSearchCheck

QUERIES = 1000
"""Where they are not limited by what the attack itself has cost."""

FEWEST_QUERIES = 100


@final
@CHECKS.registered("black_box")
class BlackBox(AbstractSearchCheck):
    """Square (Andriushchenko et al., 2020) needs no gradient, so it does not care whether they are hidden."""

    asks = "broken by Square and by no search along gradients"
    rule = "gradients"
    budget = 1 / 8

    def attacks(self, attack: AbstractAttack, *, full: bool) -> Sequence[AbstractAttack]:
        """Square, with as many queries as the attack has passes, or with the most."""
        return [Square(queries=QUERIES if full else min(max(2 * attack.effort, FEWEST_QUERIES), QUERIES))]
