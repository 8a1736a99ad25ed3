"""Projected gradient descent."""

from dataclasses import dataclass, replace
from typing import Any, final

from robustbench_bcos.attacks import ATTACKS
from robustbench_bcos.attacks.attack import Problem
from robustbench_bcos.attacks.driver import Evaluation, GradientAttack, State, check_search
from robustbench_bcos.attacks.loss import Loss
from robustbench_bcos.attacks.threat import Threat
from robustbench_bcos.core.quantities import Quantity
from robustbench_bcos.core.selection import Start
from robustbench_bcos.core.types import Epsilon, Images

RELATIVE_STEP = 2.5
"""The default step size is this times epsilon / steps (Madry et al., 2018, and MadryLab's ``robustness``)."""


@final
@ATTACKS.registered("pgd")
@dataclass(frozen=True, kw_only=True)
class PGD(GradientAttack):
    """Steps of steepest ascent, each projected onto the threat (Madry et al., 2018, section 2.1).

    One step of size epsilon is FGSM.

    Args:
        loss: what is ascended, or its name.
        step_size: in units of the pixel range; ``None`` is 2.5 * epsilon / steps.
        start: where the first restart begins; further ones begin at random.

    Raises:
        ValueError: steps or restarts below 1, or a step size that is not positive.
    """

    has_path = True
    moves_maps = True

    steps: int = 20
    loss: Loss | str = "ce"
    step_size: Quantity | str | float | None = None
    start: Start = "image"

    def __post_init__(self) -> None:
        check_search(moves=self.steps, restarts=self.restarts, start=self.start, select=self.select)
        if self.step_size is None:
            return
        step_size = Quantity.of(self.step_size, name="step_size")
        if step_size.value == 0:
            raise ValueError(f"expected a positive step size, got {self.step_size}")
        # However it was written, so that an attack equals itself read from its JSON.
        object.__setattr__(self, "step_size", step_size)

    @property
    def begins(self) -> Start:
        """As asked for."""
        return self.start

    def objective(self, problem: Problem) -> Loss:
        """The loss, as the criterion turns it."""
        return problem.objective(self.loss)

    def step(self, problem: Problem, state: State, found: Evaluation) -> Images:
        """Ascend, and project."""
        threat = problem.threat.select(state.position)
        moved = threat.advance(state.iterates, found.gradients, self.step_within(threat))
        return threat.project(state.images, moved - state.images)

    def step_within(self, threat: Threat) -> Epsilon:
        """The step size under a threat."""
        if self.step_size is None:
            return RELATIVE_STEP * threat.epsilon / self.steps
        return Quantity.of(self.step_size).value

    @property
    def for_maps(self) -> "PGD":
        """With a restart more, and random starts."""
        return replace(self, select="best_loss", start="random", restarts=self.restarts + 1)

    @property
    def at_any_step_size(self) -> "PGD":
        """The attack with its default step size, which grows with epsilon."""
        return replace(self, step_size=None)

    def stronger(self) -> "PGD":
        """Four times the steps, from a random start."""
        return replace(self, steps=4 * self.steps, step_size=None, start="random", select="first_success", restarts=1)

    def at_full_length(self, fewest_steps: int) -> "PGD":
        """Steps that reach across the pixel box."""
        return replace(self, steps=max(self.steps, fewest_steps), step_size=None, select="first_success")

    def reported(self, threat: Threat) -> dict[str, Any]:
        """The step size as a number."""
        return GradientAttack.reported(self, threat) | {"step_size": self.step_within(threat)}
