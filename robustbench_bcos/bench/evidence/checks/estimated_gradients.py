"""Whether a search that measures gradients breaks what those of the model did not."""

from collections.abc import Iterator
from functools import partial
from typing import final

import torch

from robustbench_bcos.attacks.attack import AbstractAttack
from robustbench_bcos.attacks.gradients import usable_gradient
from robustbench_bcos.attacks.norms.l2 import L2
from robustbench_bcos.attacks.searches.pgd import RELATIVE_STEP
from robustbench_bcos.bench.evidence import CHECKS
from robustbench_bcos.bench.evidence.check import AbstractCellCheck
from robustbench_bcos.bench.evidence.contexts import CellContext
from robustbench_bcos.bench.evidence.found import Found
from robustbench_bcos.bench.evidence.selection import FEWEST
from robustbench_bcos.bench.judge import judge
from robustbench_bcos.bench.rows import ResultRow
from robustbench_bcos.bench.target import AttackTarget
from robustbench_bcos.core.types import Images, PerImage

DOUBTS = ("wrong_gradients", "filtered_gradients")
"""Checks of the model without whose word it is not carried out: where gradients are right it can find nothing more."""

STEPS = 20

DIRECTIONS = 32
"""Random directions along which a step measures growth, beside the model's own gradient."""

STRIDE = 1e-2
"""How far every pixel goes in them: beyond ripples and roundings, and no farther."""

MOMENTUM = 0.8
"""Share of what was measured before that a step keeps: what grows there has mostly stayed the same."""

PASSES = STEPS * (3 + 2 * (1 + DIRECTIONS))


@final
@CHECKS.registered("estimated_gradients")
class EstimatedGradients(AbstractCellCheck):
    """Central differences in random directions, as of Ilyas et al. (2018), need no gradient to be right."""

    asks = "broken along measured gradients and by no search along those of the model"
    rule = "gradients"

    def examine(self, cell: CellContext) -> Iterator[ResultRow]:
        """Search around robust images of models whose gradients are in doubt: no others have rows."""
        results = cell.known.results(cell.cell.model)
        if not cell.robust or not any(row.against for row in results if row.check in DOUBTS):
            return
        sums = cell.known.sums(cell.cell)
        affordable = max(FEWEST, (sums.forward_passes + sums.backward_passes) // PASSES)
        most = len(cell.robust) if cell.full else affordable
        yield from cell.searched(self, most, partial(_search, subject=f"{cell.cell.key}, {self.name}"))

    def passes(self, attack: AbstractAttack) -> int:
        """For each step its gradient, and two answers for each direction."""
        return PASSES


def _search(target: AttackTarget, *, subject: str) -> Found:
    """Steepest ascent of the criterion's own order of outputs, from each image."""
    iterates, proposals = target.images, target.images
    succeeded = torch.zeros(len(iterates), dtype=torch.bool, device=iterates.device)
    measured = torch.zeros_like(iterates)
    size = RELATIVE_STEP * target.threat.epsilon / STEPS
    for number in range(STEPS):
        measured = MOMENTUM * measured + _measured_gradient(target, iterates, number)
        moved = target.threat.advance(iterates, measured, size)
        iterates = target.threat.project(target.images, moved - target.images)
        proposals = torch.where(succeeded[:, None, None, None], proposals, iterates)
        with torch.no_grad():
            succeeded |= target.criterion.success(target.attack_model(iterates), target.goals)
    success = judge(target, proposals, subject=subject).success
    return Found(against=success, passes=PASSES, broken=success)


def _measured_gradient(target: AttackTarget, iterates: Images, number: int) -> Images:
    """Growth along the model's own gradient, which may be good for something, and along random directions.

    Args:
        target: what is attacked.
        iterates: where growth is measured.
        number: of the step, for the random streams.
    """
    with torch.enable_grad():
        leaf = iterates.detach().requires_grad_()
        own = usable_gradient(target.criterion.nearness, target.attack_model(leaf), leaf, target.goals).gradient
    pixels = iterates[0].numel()
    drawn = [torch.randint(0, 2, (DIRECTIONS, *iterates.shape[1:]), generator=source) for source in target.rng(number)]
    signs = torch.stack(drawn, dim=1).to(iterates) * 2 - 1
    total = torch.zeros_like(iterates)
    for direction in (L2().steepest_ascent(own) * pixels**0.5, *signs):
        growth = _nearness(target, iterates + STRIDE * direction) - _nearness(target, iterates - STRIDE * direction)
        total += (growth / (2 * STRIDE * pixels)).to(total)[:, None, None, None] * direction
    return total


@torch.no_grad()
def _nearness(target: AttackTarget, images: Images) -> PerImage:
    return target.criterion.nearness(target.attack_model(images.clamp(0, 1)).double(), target.goals)
