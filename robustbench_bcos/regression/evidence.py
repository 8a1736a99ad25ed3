"""What could refute the robustness of forecasters: searches from elsewhere, noise, gradients that vanish."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from robustbench_bcos.core.types import Flags
from robustbench_bcos.regression.attack import Attacked, attack, robust_to_noise
from robustbench_bcos.regression.data import Trajectories
from robustbench_bcos.regression.training import Trained

STARTS = 16
"""Random perturbations at which a second search begins. Errors of a field have many maxima in few dimensions, so that
beginning elsewhere breaks more than going on."""

LONGER = 2
"""Where that breaks anything, a third search begins at so many others, and has so many times the steps."""

DRAWS = 32
"""Random perturbations of each trajectory that every search has left right."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """What is left of a robust accuracy, and how far it can be trusted."""

    robust: Flags
    """Right after everything that was tried."""
    trust: str
    reasons: str
    """The checks that make it suspect."""


def gather(
    trained: Trained,
    data: Trajectories,
    found: Sequence[Attacked],
    *,
    norm: str,
    cells: Sequence[tuple[float, str]],
    tolerance: float,
    steps: int,
) -> list[Evidence]:
    """Try to break what an attack has left.

    What the second search breaks counts as broken, and the number is repaired. It is suspect where a third one still
    breaks something (``more_steps``), where random perturbations do (``noise``), or where gradients are 0 or not
    finite on the way of a trajectory that stays right (``degenerate_gradients``): then a search along gradients shows
    little.

    Args:
        trained: what was attacked.
        data: trajectories that were predicted.
        found: what the attack has left in each cell.
        norm: how perturbations are measured.
        cells: each with its epsilon and its targets.
        tolerance: of the criterion.
        steps: of the attack.
    """
    robust = torch.stack([one.robust for one in found])
    stuck = torch.stack([one.stuck for one in found])

    def search(among: Tensor, length: int, draws: Sequence[int | None]) -> Tensor:
        asked: dict[str, Any] = {"tolerance": tolerance, "steps": length * steps, "among": among, "draws": draws}
        left = torch.stack([one.robust for one in attack(trained, data, norm=norm, cells=cells, **asked)])
        return left | (robust & ~among)

    second = search(robust, 1, range(STARTS))
    unsettled = (second != robust).any(dim=1, keepdim=True)
    third = search(second & unsettled, LONGER, [None, *range(STARTS, 2 * STARTS)]) & second
    evidence = []
    for number, (eps, targets) in enumerate(cells):
        noise = robust_to_noise(trained, data, norm=norm, eps=eps, targets=targets, tolerance=tolerance, draws=DRAWS)
        left = third[number] & noise
        against = {
            "more_steps": second[number] & ~third[number],
            "noise": third[number] & ~noise,
            "degenerate_gradients": left & stuck[number],
        }
        reasons = [check for check, flags in against.items() if bool(flags.any())]
        evidence.append(Evidence(robust=left, trust="suspect" if reasons else "sound", reasons="; ".join(reasons)))
    return evidence
