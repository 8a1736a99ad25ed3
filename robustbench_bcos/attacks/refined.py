"""A search, and then ever shorter steps from where it came nearest to success."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, final

from robustbench_bcos.attacks.attack import AttackResult, LongAttack, Problem
from robustbench_bcos.attacks.criterion import AbstractCriterion
from robustbench_bcos.attacks.driver import Evaluation, IterativeAttack, Rows, State
from robustbench_bcos.attacks.halts import Frames, Steps, split, within
from robustbench_bcos.attacks.norm import AbstractNorm
from robustbench_bcos.core.deferred import torch
from robustbench_bcos.core.types import Flags, Images, PerImage

FIRST, LAST = 1.0, 0.01
"""The first and the last step, in units of epsilon; all between them shrink by the same factor."""

LOOKS = 5
"""How often it asks of an image whether there is hope."""

PATIENCE = 2
"""Looks before the first answer: the longest steps may lead away at first."""


@final
@dataclass(frozen=True, kw_only=True)
class Refinement(IterativeAttack):
    """Steepest ascent of the criterion's own order of outputs, in steps that shrink from epsilon to a hundredth of it.

    It ends in a local maximum near its start, whatever the scale of the logits and of what can still be gained; longer
    steps leap over the narrow regions in which nearly robust images are broken. Images are given up that would not get
    there were they to go on rising as they have since the last look.
    """

    name: ClassVar[str] = "refinement"

    steps: int = 20

    @property
    def moves(self) -> int:
        """The steps."""
        return self.steps

    @property
    def keeps_best(self) -> bool:
        """Always: it may be given up anywhere."""
        return True

    @property
    def passes(self) -> int:
        """A forward pass for each iterate, a backward pass for all but the last."""
        return self.restarts * (2 * self.steps + 1)

    def remember(self, problem: Problem, images: Images, sources: "Sequence[torch.Generator]") -> "Seen":
        """No loss has been seen yet."""
        return Seen(losses=torch.full((len(images),), -torch.inf, dtype=torch.float64, device=images.device))

    def step(self, problem: Problem, state: State, found: Evaluation) -> Images:
        """Ascend, and project."""
        threat = problem.threat.select(state.position)
        share = FIRST * (LAST / FIRST) ** (state.steps / self.steps)
        size = (share * threat.epsilon).to(state.iterates)
        moved = threat.advance(state.iterates, found.gradients, size)
        return threat.project(state.images, moved - state.images)

    def dismisses(self, state: State, found: Evaluation) -> Flags:
        """Images whose loss would not rise to 0 with the steps that are left."""
        every = max(1, self.steps // LOOKS)
        due = (state.steps > 0) & (state.steps % every == 0)
        memory = state.memory
        assert isinstance(memory, Seen)
        rise = (found.losses - memory.losses) / every
        memory.losses = torch.where(due, found.losses, memory.losses)
        asked = due & (state.steps >= PATIENCE * every)
        return asked & (found.losses + rise * (self.steps - state.steps) < 0)


@dataclass
class Seen(Rows):
    """What a refinement remembers."""

    losses: PerImage
    """At the last look."""


@final
@dataclass(frozen=True, kw_only=True)
class Refined(LongAttack):
    """Another search, followed by a :class:`Refinement` from what it returns.

    Args:
        search: returns, of what does not succeed, the iterate that came nearest.
        refinement: the steps after it.
    """

    name: ClassVar[str] = "refined"

    refills = True

    search: LongAttack
    refinement: Refinement = field(default_factory=Refinement)

    def _walk(self, problem: Problem, left: Frames) -> Steps[AttackResult]:
        mine, inner = split(left)
        share = self.search.passes / self.passes
        if mine:
            found = AttackResult.of(mine)
        else:
            found = yield from within({}, self.search.walk(problem, inner), part=share)
            inner = ()
        # What succeeded is seen to at the first iterate, and returned.
        ahead = replace(problem, starts=found.adversarials.clone(), rng=problem.rng.fold_in(self.refinement.name))
        steps = self.refinement.walk(ahead, inner)
        refined = yield from within(found.frame, steps, stage=self.refinement.name, before=share, part=1 - share)
        found.trace.include(refined.trace, torch.arange(len(problem.images), device=problem.images.device))
        return AttackResult(refined.adversarials, found.trace)

    def check(self, norm: AbstractNorm, criterion: AbstractCriterion) -> None:
        """Refuse what the search refuses."""
        self.search.check(norm, criterion)

    @property
    def passes(self) -> int:
        """Those of both."""
        return self.search.passes + self.refinement.passes
