"""Random noise: the attack that every other one must beat."""

from dataclasses import dataclass, replace
from typing import final

from robustbench_bcos.attacks import ATTACKS
from robustbench_bcos.attacks.attack import Problem
from robustbench_bcos.attacks.driver import Evaluation, IterativeAttack, State, check_search
from robustbench_bcos.core.types import Images


@final
@ATTACKS.registered("noise")
@dataclass(frozen=True, kw_only=True)
class Noise(IterativeAttack):
    """Draw uniformly from the threat, up to ``restarts`` times, and return the first draw that is a success."""

    uses_gradients = False
    is_control = True

    def __post_init__(self) -> None:
        check_search(moves=1, restarts=self.restarts)

    @property
    def moves(self) -> int:
        """None: each restart is one draw."""
        return 0

    def step(self, problem: Problem, state: State, found: Evaluation) -> Images:
        """There is no next iterate."""
        return state.iterates

    @property
    def passes(self) -> int:
        """One for each draw."""
        return self.restarts

    def stronger(self) -> "Noise":
        """Four times the draws."""
        return replace(self, restarts=4 * self.restarts)
