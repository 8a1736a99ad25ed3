"""Targeted Auto-PGD, as AutoAttack runs it (APGD-T)."""

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from robustbench_bcos.attacks import ATTACKS
from robustbench_bcos.attacks.attack import AttackResult, Problem, require_labels
from robustbench_bcos.attacks.criterion import AbstractCriterion
from robustbench_bcos.attacks.driver import Search
from robustbench_bcos.attacks.halts import Frames, Steps, split, within
from robustbench_bcos.attacks.losses.dlr import targeted_dlr
from robustbench_bcos.attacks.norm import AbstractNorm
from robustbench_bcos.attacks.searches.apgd import AutoPGD
from robustbench_bcos.attacks.threat import Threat
from robustbench_bcos.core.types import Goals, PerImage


@final
@ATTACKS.registered("apgd_targeted")
@dataclass(frozen=True, kw_only=True)
class TargetedAPGD(AutoPGD):
    """Auto-PGD towards one wrong class after the other, those of the largest logits of the clean image first.

    Towards each, the targeted DLR is ascended in searches of its own, ``restarts`` at most, on the images that are
    still robust. Ranking the classes costs a forward pass.

    Args:
        targets: wrong classes aimed at, at most; more than there are means all.

    Raises:
        ValueError: targets below 1.
    """

    targets: int = 9

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.targets < 1:
            raise ValueError(f"expected targets of at least 1, got {self.targets}")

    def check(self, norm: AbstractNorm, criterion: AbstractCriterion) -> None:
        """Refuse a criterion with goals of its own."""
        require_labels(criterion, "targeted APGD")

    def _walk(self, problem: Problem, left: Frames) -> Steps[AttackResult]:
        mine, inner = split(left)
        search = Search(self, problem, inner)
        if mine:
            ranked = mine["ranked"]
        else:
            outputs = problem.outputs(problem.images)
            search.trace.forward_passes.add_(1)
            if self.select == "first_success":
                search.succeeded = problem.criterion.success(outputs, problem.goals)
            ranked = torch.stack(likeliest_wrong_classes(outputs, problem.goals, self.targets))
        for number, targets in enumerate(ranked):

            def towards(outputs: Tensor, goals: Goals, positions: Tensor, targets: Tensor = targets) -> PerImage:
                return targeted_dlr(outputs, goals, targets[positions])

            search.objective = towards
            steps = search.run(offset=number * self.restarts)
            yield from within({"ranked": ranked}, steps, stage=f"target {number + 1} of {len(ranked)}")
        return search.result

    @property
    def passes(self) -> int:
        """One to rank the classes, and a search for each target."""
        return 1 + self.targets * self.restarts * (2 * self.steps + 1)

    def left_out(self, classes: int) -> dict[str, str]:
        """Targets that the model does not have."""
        return missing_targets(self.targets, classes)

    def reported(self, threat: Threat) -> dict[str, Any]:
        """The loss is always the targeted DLR."""
        return AutoPGD.reported(self, threat) | {"loss": targeted_dlr.__name__}


def likeliest_wrong_classes(logits: Tensor, labels: Goals, most: int) -> list[Tensor]:
    """Wrong classes of each image by clean logit, the largest first."""
    wrong = logits.scatter(1, labels[:, None], -torch.inf)
    # A stable order: of equal logits, the same comes first in every batch.
    ranked = wrong.argsort(dim=1, descending=True, stable=True)
    return list(ranked[:, : min(most, logits.shape[1] - 1)].unbind(dim=1))


def missing_targets(targets: int, classes: int) -> dict[str, str]:
    """Says that a model has fewer wrong classes than were asked for."""
    wrong = classes - 1
    if targets <= wrong:
        return {}
    return {"targets": f"{targets} were asked for and there are {wrong} wrong classes, all are aimed at"}
