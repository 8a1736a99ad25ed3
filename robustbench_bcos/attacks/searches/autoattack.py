"""AutoAttack: several attacks, one after the other on the images that are still robust."""

from dataclasses import dataclass, field, replace
from typing import Any, final

from robustbench_bcos.attacks import ATTACKS
from robustbench_bcos.attacks.attack import AbstractAttack, AttackResult, LongAttack, Problem, Trace
from robustbench_bcos.attacks.criterion import AbstractCriterion
from robustbench_bcos.attacks.halts import Frames, Steps, split, within
from robustbench_bcos.attacks.norm import AbstractNorm
from robustbench_bcos.attacks.searches.apgd import APGD
from robustbench_bcos.attacks.searches.apgd_targeted import TargetedAPGD
from robustbench_bcos.attacks.searches.fab import FAB, REMEDY, torchattacks_available
from robustbench_bcos.attacks.searches.square import Square
from robustbench_bcos.attacks.threat import Threat
from robustbench_bcos.core.deferred import torch

PUBLISHED = ("l2", "linf")
"""Norms that the standard version was published for."""


@final
@dataclass(frozen=True, kw_only=True)
class Ensemble(LongAttack):
    """Attack with each member the images that the members before it did not break.

    Between two members every image is classified once more, to see which are still robust. An image that resists them
    all keeps the last member's perturbation. Member i draws from stream i.

    Args:
        members: the attacks, the cheap ones first.

    Raises:
        ValueError: there are none.
    """

    refills = True

    members: tuple[AbstractAttack, ...]

    def __post_init__(self) -> None:
        if not self.members:
            raise ValueError("expected at least one member, got none")

    def check(self, norm: AbstractNorm, criterion: AbstractCriterion) -> None:
        """Every member must serve both."""
        for member in self.members:
            member.check(norm, criterion)

    def lacks(self, norm: str) -> dict[str, str]:
        """What any of its members lacks."""
        return {part: why for member in self.members for part, why in member.lacks(norm).items()}

    def _walk(self, problem: Problem, left: Frames) -> Steps[AttackResult]:
        mine, inner = split(left)
        images, first = problem.images, int(mine.get("member", 0))
        result = AttackResult.of(mine) if mine else AttackResult(images.clone(), Trace.blank(images))
        active = mine.get("active", torch.arange(len(images), device=images.device))
        for number, member in list(enumerate(self.members))[first:]:
            remaining = problem.select(active)
            if number > first:
                robust = ~remaining.succeeds(result.adversarials[active])
                result.trace.forward_passes[active] += 1
                active = active[robust]
                remaining = problem.select(active)
            if len(active) == 0:
                break
            steps = member.walk(replace(remaining, rng=remaining.rng.fold_in(number)), inner if number == first else ())
            found = yield from within(
                {"member": torch.tensor(number), "active": active, **result.frame},
                steps,
                stage=f"{getattr(member, 'name', type(member).__name__)}, {number + 1} of {len(self.members)}",
                done=len(images) - len(active),
                before=sum(other.passes for other in self.members[:number]) / self.passes,
                part=member.passes / self.passes,
            )
            result.adversarials[active] = found.adversarials
            result.trace.include(found.trace, active)
        return result

    @property
    def passes(self) -> int:
        """Those of all members, and a forward pass between two members to see who is still robust."""
        return sum(member.passes for member in self.members) + len(self.members) - 1


@final
@ATTACKS.registered("autoattack")
@dataclass(frozen=True, kw_only=True)
class AutoAttack(LongAttack):
    """The standard version of AutoAttack (Croce & Hein, 2020), with its published numbers of steps and queries.

    In other norms than l2 and linf it has the same members, and says that this is not what was published: the l1
    version (Croce & Hein, 2021) has other numbers of restarts and targets, and begins its searches in larger balls.

    Args:
        fab: whether FAB is among them, which needs torchattacks.
    """

    refills = True
    leaderboard = "autoattack_acc"

    fab: bool = field(default_factory=torchattacks_available)

    @property
    def ensemble(self) -> Ensemble:
        """Auto-PGD, its targeted form, FAB where it can be had, and Square."""
        return Ensemble(members=(APGD(), TargetedAPGD(), *((FAB(),) if self.fab else ()), Square()))

    def check(self, norm: AbstractNorm, criterion: AbstractCriterion) -> None:
        """Every member must serve both."""
        self.ensemble.check(norm, criterion)

    def _walk(self, problem: Problem, left: Frames) -> Steps[AttackResult]:
        return (yield from self.ensemble.walk(problem, left))

    @property
    def passes(self) -> int:
        """Those of its members."""
        return self.ensemble.passes

    @property
    def effort(self) -> int:
        """The steps of its longest search."""
        return APGD().steps

    def stronger(self) -> AbstractAttack:
        """An ensemble has no number of steps; its longest search does."""
        return APGD(steps=4 * APGD().steps)

    def lacks(self, norm: str) -> dict[str, str]:
        """FAB, where torchattacks is not installed, and what a norm's own version has."""
        found = {} if self.fab else {"fab": f"it needs torchattacks, {REMEDY}"}
        if norm not in PUBLISHED:
            found[f"{norm} version"] = f"the standard version was published for {' and '.join(PUBLISHED)}"
        return found

    def reported(self, threat: Threat) -> dict[str, Any]:
        """The published settings of its members, which have no options."""
        search, targeted, square = APGD(), TargetedAPGD(), Square()
        return {
            "steps": search.steps,
            "start": "random",
            "restarts": search.restarts,
            "queries": square.queries,
            "targets": targeted.targets,
            **({} if self.fab else {"fab": False}),
        }
