"""Targeted Auto-PGD, as AutoAttack runs it (APGD-T)."""

from dataclasses import dataclass
from typing import Any, final

from robustbench_bcos.attacks import ATTACKS
from robustbench_bcos.attacks.attack import AttackResult, Problem, require_labels
from robustbench_bcos.attacks.criterion import AbstractCriterion
from robustbench_bcos.attacks.driver import Evaluation, Objective, Search, State
from robustbench_bcos.attacks.gradients import image_gradient, usable
from robustbench_bcos.attacks.halts import Frames, Steps, split, within
from robustbench_bcos.attacks.losses.dlr import targeted_dlr
from robustbench_bcos.attacks.norm import AbstractNorm
from robustbench_bcos.attacks.searches.apgd import AutoPGD, Memory
from robustbench_bcos.attacks.threat import Threat
from robustbench_bcos.core.deferred import torch
from robustbench_bcos.core.types import Flags, Goals, PerImage, Tensor

LOOKS = 5
"""How often a brief search asks of an image whether there is hope."""


@final
@ATTACKS.registered("apgd_targeted")
@dataclass(frozen=True, kw_only=True)
class TargetedAPGD(AutoPGD):
    """Auto-PGD towards one wrong class after the other, those of the largest logits of the clean image first.

    Towards each, the targeted DLR is ascended in searches of its own, ``restarts`` at most, on the images that are
    still robust. Ranking the classes costs a forward pass.

    Args:
        targets: wrong classes aimed at, at most; more than there are means all.
        candidates: so many of the likeliest wrong classes are brought into the order of their distance, were the
            network linear: difference of logits over the norm of its gradient (Melamed et al., 2024, "MALT", equation
            3; Moosavi-Dezfooli et al., 2016, "DeepFool"). Costs a backward pass each. With 0, logits alone decide.
        brief: five times on its way, a search gives up the images whose best loss, were it to go on rising as fast as
            since the last time, would still be below 0 at the end (as Liu et al., 2022, dismiss images early); and
            where none succeeds the best iterate is returned. Most of what is robust takes under half of the steps. All
            targets but the first are aimed at together.

    Raises:
        ValueError: targets below 1, or candidates below 0.
    """

    targets: int = 9
    candidates: int = 0
    brief: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.targets < 1:
            raise ValueError(f"expected targets of at least 1, got {self.targets}")
        if self.candidates < 0:
            raise ValueError(f"expected candidates of at least 0, got {self.candidates}")

    @property
    def keeps_best(self) -> bool:
        """A search that was given up may have ended anywhere."""
        return self.brief

    def dismisses(self, state: State, found: Evaluation) -> Flags:
        """Images whose best loss would not rise to 0 with the steps that are left."""
        every = max(1, self.steps // LOOKS)
        due = (state.steps > 0) & (state.steps % every == 0)
        if not self.brief:
            return torch.zeros_like(due)
        memory = state.memory
        assert isinstance(memory, Memory)
        best = memory.best_losses.maximum(found.losses)
        rise = (best - memory.reached) / every
        memory.reached = torch.where(due, best, memory.reached)
        return due & (best + rise * (self.steps - state.steps) < 0)

    def check(self, norm: AbstractNorm, criterion: AbstractCriterion) -> None:
        """Refuse a criterion with goals of its own."""
        require_labels(criterion, "targeted APGD")

    def _walk(self, problem: Problem, left: Frames) -> Steps[AttackResult]:
        mine, inner = split(left)
        goes_on_together = "best" in mine
        search = Search(self, problem, () if goes_on_together else inner)
        if mine:
            ranked = mine["ranked"]
        else:
            outputs = problem.outputs(problem.images)
            search.trace.forward_passes.add_(1)
            if self.select == "first_success":
                search.succeeded = problem.criterion.success(outputs, problem.goals)
            ranked = torch.stack(likeliest_wrong_classes(outputs, problem.goals, max(self.targets, self.candidates)))
            if self.candidates:
                search.trace.forward_passes.add_(1)
                search.trace.backward_passes.add_(len(ranked))
                ranked = nearest_first(problem, ranked)[: self.targets]
        alone = ranked[:1] if self.brief else ranked
        if goes_on_together:
            search.restore(mine)
        else:
            for number, targets in enumerate(alone):
                search.objective = _towards(targets)
                steps = search.run(offset=number * self.restarts)
                yield from within({"ranked": ranked}, steps, stage=f"target {number + 1} of {len(ranked)}")
        others = ranked[len(alone) :]
        if len(others) and not search.succeeded.all():
            steps = self._together(search, others, inner if goes_on_together else ())
            stage = f"targets {len(alone) + 1} to {len(ranked)}"
            yield from within({"ranked": ranked, **search.frame}, steps, stage=stage)
        return search.result

    def _together(self, search: Search, targets: Tensor, left: Frames) -> Steps[None]:
        """Search towards several classes at a time, each in a copy of the images that are still robust.

        Few images of which most stay robust make small batches, and a pass of a small batch costs several times as
        much. Every copy is searched to its own end, even if another has succeeded: what is found must not depend on
        which of them share a batch.
        """
        positions = (~search.succeeded).nonzero().squeeze(1)
        copied = Search(self, search.problem.select(positions).repeated(len(targets)), left)
        copied.objective = _towards(targets[:, positions].flatten())
        yield from copied.run()
        search.include(copied, positions)

    @property
    def passes(self) -> int:
        """Those to rank the classes, and a search for each target."""
        ranking = 1 + (1 + max(self.targets, self.candidates) if self.candidates else 0)
        return ranking + self.targets * self.restarts * (2 * self.steps + 1)

    def left_out(self, classes: int) -> dict[str, str]:
        """Targets that the model does not have."""
        return missing_targets(self.targets, classes)

    def reported(self, threat: Threat) -> dict[str, Any]:
        """The loss is always the targeted DLR."""
        return AutoPGD.reported(self, threat) | {"loss": targeted_dlr.__name__}


def _towards(targets: Tensor) -> Objective:
    def towards(outputs: Tensor, goals: Goals, positions: Tensor) -> PerImage:
        return targeted_dlr(outputs, goals, targets[positions])

    return towards


def likeliest_wrong_classes(logits: Tensor, labels: Goals, most: int) -> list[Tensor]:
    """Wrong classes of each image by clean logit, the largest first."""
    wrong = logits.scatter(1, labels[:, None], -torch.inf)
    # A stable order: of equal logits, the same comes first in every batch.
    ranked = wrong.argsort(dim=1, descending=True, stable=True)
    return list(ranked[:, : min(most, logits.shape[1] - 1)].unbind(dim=1))


def nearest_first(problem: Problem, candidates: Tensor) -> Tensor:
    """Wrong classes of each image by their distance, were the network linear around it.

    Args:
        problem: the images.
        candidates: of shape (class, image).

    Returns:
        The same, sorted along the first axis.
    """
    parts = torch.arange(len(problem.images), device=problem.images.device).split(problem.batch_size)
    distances = torch.cat([_linear_distances(problem.select(part), candidates[:, part]) for part in parts], dim=1)
    # Sorted like this, equal distances keep the order of the logits.
    return candidates.gather(0, distances.argsort(dim=0, stable=True))


def _linear_distances(problem: Problem, candidates: Tensor) -> Tensor:
    with torch.enable_grad():
        leaf = problem.images.clone().requires_grad_()
        logits = problem.classifier(leaf)
    classes = torch.eye(logits.shape[1], dtype=logits.dtype, device=logits.device)
    distances = []
    for targets in candidates:
        slope = classes[targets] - classes[problem.goals]
        gradient = usable(image_gradient(logits, leaf, slope, keep=True)).gradient
        # The norm that is dual to the threat's: what its steepest step of size 1 gains.
        growth = (gradient * problem.threat.geometry.steepest_ascent(gradient)).flatten(1).sum(dim=1).double()
        gap = -(logits.detach().double() * slope.double()).sum(dim=1)
        distances.append(torch.where(growth > 0, gap / growth, torch.inf))
    return torch.stack(distances)


def missing_targets(targets: int, classes: int) -> dict[str, str]:
    """Says that a model has fewer wrong classes than were asked for."""
    wrong = classes - 1
    if targets <= wrong:
        return {}
    return {"targets": f"{targets} were asked for and there are {wrong} wrong classes, all are aimed at"}
