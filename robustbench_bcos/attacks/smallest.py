"""A search for the smallest perturbation that succeeds, along the boundary between success and failure."""

import math
from dataclasses import dataclass
from typing import ClassVar, final

import torch

from robustbench_bcos.attacks.attack import AbstractAttack, AttackResult, Problem, Trace
from robustbench_bcos.attacks.gradients import usable_gradient
from robustbench_bcos.attacks.loss import Loss

FIRST, LAST = 1.0, 0.01
"""The first and the last step, in units of the present epsilon; all between them shrink by the same factor."""

MOST, LEAST = 0.1, 0.001
"""Part by which epsilon changes after the first step, and after the last one; half a cosine between them."""


@final
@dataclass(frozen=True, kw_only=True)
class Smallest(AbstractAttack):
    """Steps of steepest ascent within an epsilon of each image's own that follows what is found.

    After a success epsilon becomes smaller than it, after a failure larger, but never as large as the smallest success
    (Rony et al., 2019, "DDN"; Pintor et al., 2021, "FMN"). So nearly all steps are spent near the boundary, where a
    bisection would search within each epsilon anew. It begins with the threat's own epsilon.

    Args:
        steps: gradient steps.
        loss: what is ascended, or its name.
    """

    name: ClassVar[str] = "smallest"

    steps: int = 100
    loss: Loss | str = "ce"

    def _search(self, problem: Problem) -> AttackResult:
        images, threat, objective = problem.images, problem.threat, problem.objective(self.loss)
        trace = Trace.blank(images)
        adversarials = images.clone()
        epsilon = torch.as_tensor(threat.epsilon, device=images.device).to(images).expand(len(images)).clone()
        smallest = torch.full_like(epsilon, torch.inf)
        iterates = images
        for number in range(self.steps + 1):
            with torch.enable_grad():
                leaf = iterates.detach().requires_grad_()
                outputs = problem.classifier(leaf)
                success = problem.criterion.success(outputs.detach(), problem.goals)
                gradient, degenerate = usable_gradient(objective, outputs, leaf, problem.goals)
            trace.forward_passes.add_(1)
            sizes = threat.size(iterates - images)
            better = success & (sizes < smallest)
            smallest = torch.where(better, sizes, smallest)
            adversarials = torch.where(better[:, None, None, None], iterates, adversarials)
            if number == self.steps:
                break
            trace.backward_passes.add_(1)
            trace.degenerate_gradient.logical_or_(degenerate & ~success)
            done = number / self.steps
            change = LEAST + (MOST - LEAST) * (1 + math.cos(math.pi * done)) / 2
            wider = torch.where(smallest.isfinite(), epsilon * (1 + change), epsilon)
            epsilon = torch.where(success, smallest * (1 - change), wider).minimum(smallest * (1 - LEAST))
            moved = threat.advance(iterates, gradient, FIRST * (LAST / FIRST) ** done * epsilon)
            iterates = threat.geometry.project(images, moved - images, epsilon).detach()
        return AttackResult(adversarials, trace)

    @property
    def passes(self) -> int:
        """A forward pass for each iterate, a backward pass for all but the last."""
        return 2 * self.steps + 1
