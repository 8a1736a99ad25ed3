"""Whether the attack succeeds where nothing limits it."""

from collections.abc import Sequence
from typing import final

from robustbench_bcos.attacks.attack import AbstractAttack
from robustbench_bcos.attacks.searches.pgd import PGD
from robustbench_bcos.attacks.threat import Threat
from robustbench_bcos.bench.evidence import CHECKS
from robustbench_bcos.bench.evidence.check import AbstractSearchCheck
from robustbench_bcos.core.types import Flags, Images

FEWEST_STEPS = 20
"""Steps of the attack at least, since it has the whole pixel box to cross."""


@final
@CHECKS.registered("unbounded_attack")
class UnboundedAttack(AbstractSearchCheck):
    """With the ball of the whole pixel range every image can be turned into any other (Carlini et al., 2019).

    An attack may fail there on honest networks, too: the first step leads to a corner where a loss has no slope. So
    another loss is tried as well, from the image like the attack, and most of the images must stay.
    """

    asks = "still right when two attacks may change every pixel at will"
    rule = "share"
    of_misses = True
    budget = 1 / 16
    fewest = 16
    tolerated = 0.5

    def attacks(self, attack: AbstractAttack, *, full: bool) -> Sequence[AbstractAttack]:
        """The attack itself, and the margin."""
        return [attack.at_full_length(FEWEST_STEPS), PGD(steps=FEWEST_STEPS, loss="margin")]

    def threat(self, threat: Threat, images: Images) -> Threat:
        """The whole pixel box."""
        return threat.unbounded(images.shape[1:])

    def against(self, broken: Flags) -> Flags:
        """Images that stay robust."""
        return ~broken
