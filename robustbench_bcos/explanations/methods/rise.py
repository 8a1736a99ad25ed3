"""RISE."""

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.core.types import Float, Images
from robustbench_bcos.explanations import METHODS
from robustbench_bcos.explanations.explanation import Explanation, Targets
from robustbench_bcos.explanations.method import AbstractMethod
from robustbench_bcos.explanations.methods._post_hoc import logits_and_targets, shown_together

MASKS = 500
GRID = 8
PRESENT = 0.1
"""Masks, cells of a side of each, and the share of cells that are kept: the settings of the official B-cos code.
Petsiuk et al. use 4,000 or 8,000 masks of 7 cells, half of which are kept."""

DRAWN = 50
"""Masks that are drawn at a time, whatever the network is shown together: draws depend on the image alone."""


@final
@METHODS.registered("rise")
class Rise(AbstractMethod):
    """Mean of random masks, each weighted with the probability of the class of what it leaves (Petsiuk et al., 2018).

    Probabilities are the softmax's. All targets of an image share its masks, and maps are nowhere negative.
    """

    differentiates = False
    of_modules = False

    def _attribute(self, network: nn.Module, encoded: Images, targets: Targets | None, rng: PerImageRng) -> Explanation:
        logits, chosen = logits_and_targets(network, encoded, targets)
        height, width = encoded.shape[2:]
        together = shown_together(encoded)
        maps = encoded.new_zeros(*chosen.shape, height, width)
        for image, source in enumerate(rng(0)):
            for start in range(0, MASKS, DRAWN):
                for masks in draw_masks(min(DRAWN, MASKS - start), height, width, source).to(encoded).split(together):
                    with torch.no_grad():
                        found = network(encoded[image] * masks[:, None]).softmax(dim=1)[:, chosen[image]]
                    maps[image] += torch.einsum("mt,mhw->thw", found, masks)
        return Explanation(weights=None, contributions=maps / (MASKS * PRESENT), logits=logits, targets=chosen)


def draw_masks(count: int, height: int, width: int, source: torch.Generator) -> Float[Tensor, "mask height width"]:
    """Grids of cells that are kept or not, enlarged bilinearly and moved by less than a cell."""
    tall, wide = -(-height // GRID), -(-width // GRID)
    kept = (torch.rand((count, 1, GRID + 1, GRID + 1), generator=source) < PRESENT).float()
    large = F.interpolate(kept, ((GRID + 1) * tall, (GRID + 1) * wide), mode="bilinear", align_corners=False)[:, 0]
    tops = torch.randint(tall, (count,), generator=source).tolist()
    lefts = torch.randint(wide, (count,), generator=source).tolist()
    parts = zip(large, tops, lefts, strict=True)
    moved = [mask[top : top + height, left : left + width] for mask, top, left in parts]
    # Interpolation rounds.
    return torch.stack(moved).clamp(0, 1)
