"""An attack of one's own: a random walk that keeps every step after which the image is nearer to success."""

from dataclasses import dataclass

import torch

from robustbench_bcos.attacks import ATTACKS
from robustbench_bcos.attacks.attack import AbstractAttack, AttackResult, Problem, Trace


@ATTACKS.registered("random_walk")
@dataclass(frozen=True, kw_only=True)
class RandomWalk(AbstractAttack):
    """Draw perturbations from the threat and walk a part of the way to each of them.

    Args:
        draws: steps, each of which costs a forward pass.
        stride: part of the way that is walked.
    """

    uses_gradients = False

    draws: int = 50
    stride: float = 0.5

    @property
    def passes(self) -> int:
        return self.draws

    def _search(self, problem: Problem) -> AttackResult:
        threat, criterion = problem.threat, problem.criterion
        best, trace = problem.images.clone(), Trace.blank(problem.images)
        nearness = torch.full((len(best),), -torch.inf, dtype=torch.float64, device=best.device)
        done = torch.zeros(len(best), dtype=torch.bool, device=best.device)
        for draw in range(self.draws):
            drawn = threat.sample(best.shape[1:], problem.rng(draw)).to(best)
            walked = (1 - self.stride) * (best - problem.images) + self.stride * drawn
            tried = threat.project(problem.images, walked)
            outputs = problem.outputs(tried)
            trace.forward_passes[~done] += 1
            found = criterion.nearness(outputs, problem.goals).double()
            success = criterion.success(outputs, problem.goals)
            better = ~done & (success | (found > nearness))
            best = torch.where(better[:, None, None, None], tried, best)
            nearness = torch.where(better, found, nearness)
            done |= success
        return AttackResult(best, trace)

    def stronger(self) -> "RandomWalk":
        return RandomWalk(draws=4 * self.draws, stride=self.stride)
