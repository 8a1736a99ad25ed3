"""Occlusion."""

from collections.abc import Iterator
from typing import final

import torch
from torch import Tensor, nn

from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.core.types import Images
from robustbench_bcos.explanations import METHODS
from robustbench_bcos.explanations.explanation import Explanation, Targets
from robustbench_bcos.explanations.method import AbstractMethod
from robustbench_bcos.explanations.methods._post_hoc import logits_and_targets, shown_together

WINDOW = 1 / 7
"""Side of the window as a share of the image's: 32 pixels of 224."""


@final
@METHODS.registered("occlusion")
class Occlusion(AbstractMethod):
    """How much the logit falls when a window is set to 0, on average over the windows that a position is in.

    As Zeiler and Fergus (2014) and captum do it; windows are half their side apart. All targets share their passes.
    """

    differentiates = False
    of_modules = False

    def _attribute(self, network: nn.Module, encoded: Images, targets: Targets | None, rng: PerImageRng) -> Explanation:
        logits, chosen = logits_and_targets(network, encoded, targets)
        height, width = encoded.shape[2:]
        together = shown_together(encoded)
        windows = torch.stack(list(_windows(height, width))).to(encoded.device)
        counts = windows.sum(dim=0).clamp(min=1)
        maps = encoded.new_empty(*chosen.shape, height, width)
        for image, (pixels, own) in enumerate(zip(encoded.detach(), logits, strict=True)):
            with torch.no_grad():
                occluded = torch.cat([network(pixels * ~part[:, None]) for part in windows.split(together)])
            falls = (own - occluded)[:, chosen[image]]
            maps[image] = torch.einsum("wt,whx->thx", falls, windows.to(falls)) / counts
        return Explanation(weights=None, contributions=maps, logits=logits, targets=chosen)


def _windows(height: int, width: int) -> Iterator[Tensor]:
    """Each window as the positions in it; the last ones of a row or column end with the image."""
    rows, columns = _starts(height), _starts(width)
    for top, tall in rows:
        for left, wide in columns:
            window = torch.zeros(height, width, dtype=torch.bool)
            window[top : top + tall, left : left + wide] = True
            yield window


def _starts(length: int) -> list[tuple[int, int]]:
    side = max(1, round(WINDOW * length))
    starts = {*range(0, length - side, max(1, side // 2)), length - side}
    return [(start, side) for start in sorted(starts)]
