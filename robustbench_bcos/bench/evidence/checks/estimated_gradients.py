"""Whether a search that measures gradients breaks what those of the model did not."""

from collections.abc import Iterator, Sequence
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, final

from robustbench_bcos.attacks.attack import AbstractAttack
from robustbench_bcos.attacks.gradients import usable_gradient
from robustbench_bcos.attacks.norms.l2 import L2
from robustbench_bcos.attacks.searches.pgd import RELATIVE_STEP
from robustbench_bcos.bench.evidence import CHECKS
from robustbench_bcos.bench.evidence.check import AbstractCellCheck
from robustbench_bcos.bench.evidence.contexts import CellContext
from robustbench_bcos.bench.evidence.found import Found
from robustbench_bcos.bench.evidence.selection import FEWEST
from robustbench_bcos.bench.rows import ResultRow
from robustbench_bcos.core.deferred import torch
from robustbench_bcos.core.types import Images, PerImage

if TYPE_CHECKING:
    from robustbench_bcos.bench.target import AttackTarget

DOUBTS = ("wrong_gradients", "filtered_gradients")
"""Checks of the model without whose word it is not carried out: where gradients are right it can find nothing more."""

DOUBTFUL = 0.01
"""Distance of the model's gradients from what grows, in the median, that accuses nobody and is looked into: float32
networks have 0.0025 at most, those in bfloat16 0.025, and a median filter of which 30 % are detached 0.07."""

STEPS = 20

DIRECTIONS = 32
"""Random directions along which a step measures growth, beside the model's own gradient."""

STRIDE = 1e-2
"""How far every pixel goes in them: beyond ripples and roundings, and no farther."""

MOMENTUM = 0.8
"""Weight of what was measured in steps before: what the model's own gradient lacks has mostly stayed the same."""

PASSES = STEPS * (3 + 2 * (1 + DIRECTIONS))


@final
@CHECKS.registered("estimated_gradients")
class EstimatedGradients(AbstractCellCheck):
    """Central differences in random directions, as of Ilyas et al. (2018), need no gradient to be right."""

    asks = "broken along measured gradients and by no search along those of the model"
    rule = "gradients"

    def examine(self, cell: CellContext) -> Iterator[ResultRow]:
        """Search around robust images of models whose gradients are in doubt: no others have rows."""
        if not cell.robust or not _in_doubt(cell.known.results(cell.cell.model)):
            return
        sums = cell.known.sums(cell.cell)
        affordable = max(FEWEST, (sums.forward_passes + sums.backward_passes) // PASSES)
        most = len(cell.robust) if cell.full else affordable
        yield from cell.searched(self, most, partial(_search, subject=f"{cell.cell.key}, {self.name}"))

    def passes(self, attack: AbstractAttack) -> int:
        """For each step its gradient, and two answers for each direction."""
        return PASSES


def _in_doubt(results: Sequence[ResultRow]) -> bool:
    doubts = [row for row in results if row.check in DOUBTS]
    distances = [row.value for row in doubts if row.check == "filtered_gradients" and row.value is not None]
    return any(row.against for row in doubts) or median(distances or [0.0]) > DOUBTFUL


def _search(target: "AttackTarget", *, subject: str) -> Found:
    """Steepest ascent of the criterion's own order of outputs, from each image, by what was measured of it."""
    from robustbench_bcos.bench.judge import judge

    iterates, proposals = target.images, target.images
    succeeded = torch.zeros(len(iterates), dtype=torch.bool, device=iterates.device)
    lacking = torch.zeros_like(iterates)
    size = RELATIVE_STEP * target.threat.epsilon / STEPS
    for number in range(STEPS):
        own, rest = _measured(target, iterates, number)
        lacking = MOMENTUM * lacking + (1 - MOMENTUM) * rest
        # The mean of few steps would be too small by what the zero before the first one weighs.
        gradient = own + lacking / (1 - MOMENTUM ** (number + 1))
        moved = target.threat.advance(iterates, gradient, size)
        iterates = target.threat.project(target.images, moved - target.images)
        proposals = torch.where(succeeded[:, None, None, None], proposals, iterates)
        with torch.no_grad():
            succeeded |= target.criterion.success(target.attack_model(iterates), target.goals)
    success = judge(target, proposals, subject=subject).success
    return Found(against=success, passes=PASSES, broken=success)


def _measured(target: "AttackTarget", iterates: Images, number: int) -> tuple[Images, Images]:
    """What grows along the model's own gradient, and an estimate of what does across it, where that says nothing.

    The two apart: a gradient that lacks a part is mostly right, and what random directions say of the right part would
    be noise of many times the size of what is sought.

    Args:
        target: what is attacked.
        iterates: where growth is measured.
        number: of the step, for the random streams.
    """
    with torch.enable_grad():
        leaf = iterates.detach().requires_grad_()
        own = usable_gradient(target.criterion.nearness, target.attack_model(leaf), leaf, target.goals).gradient
    along = L2().steepest_ascent(own)
    root = iterates[0].numel() ** 0.5
    drawn = [torch.randint(0, 2, (DIRECTIONS, *iterates.shape[1:]), generator=source) for source in target.rng(number)]
    signs = torch.stack(drawn, dim=1).to(iterates) * 2 - 1
    rest = torch.zeros_like(iterates)
    for drawn_signs in signs:
        across = drawn_signs - (drawn_signs * along).flatten(1).sum(dim=1)[:, None, None, None] * along
        rest += _slope(target, iterates, across) * across / DIRECTIONS
    return _slope(target, iterates, root * along) / root * along, rest


def _slope(target: "AttackTarget", iterates: Images, direction: Images) -> Images:
    """Of the criterion's order, by central differences, as a factor of each image."""
    growth = _nearness(target, iterates + STRIDE * direction) - _nearness(target, iterates - STRIDE * direction)
    return (growth / (2 * STRIDE)).to(iterates)[:, None, None, None]


def _nearness(target: "AttackTarget", images: Images) -> PerImage:
    with torch.no_grad():
        return target.criterion.nearness(target.attack_model(images.clamp(0, 1)).double(), target.goals)
