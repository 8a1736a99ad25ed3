"""LIME."""

from typing import Any, final

import torch
from torch import Tensor, nn

from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.core.types import Images
from robustbench_bcos.explanations import METHODS
from robustbench_bcos.explanations.explanation import Explanation, Targets
from robustbench_bcos.explanations.method import AbstractMethod
from robustbench_bcos.explanations.methods._post_hoc import logits_and_targets, shown_together

GRID = 8
"""Squares on a side of the grid that is switched off and on; an image of fewer pixels is switched pixel by pixel."""
SAMPLES = 256
KERNEL_WIDTH = 0.25
"""Width of the kernel exp(-d^2 / width^2) over the cosine distance d (Ribeiro et al., 2016, and their code)."""
RIDGE = 1.0
"""Penalty of the ridge regression, as in the authors' code."""


@final
@METHODS.registered("lime")
class Lime(AbstractMethod):
    """Coefficients of a ridge regression of the logit on which squares of a grid are present (Ribeiro et al., 2016).

    Each coefficient is shared out evenly over its square.
    """

    differentiates = False
    of_modules = False

    def _attribute(self, network: nn.Module, encoded: Images, targets: Targets | None, rng: PerImageRng) -> Explanation:
        logits, chosen = logits_and_targets(network, encoded, targets)
        grid = _grid(*encoded.shape[2:]).to(encoded.device)
        area = grid.flatten().bincount()
        maps = encoded.new_zeros((*chosen.shape, *grid.shape))
        # The same squares are switched for every target of an image.
        for image, target in ((i, t) for i in range(len(encoded)) for t in range(chosen.shape[1])):
            source = rng(0)[image]
            coefficients = _coefficients(network, encoded[image : image + 1], int(chosen[image, target]), grid, source)
            maps[image, target] = (coefficients.to(encoded) / area)[grid]
        return Explanation(weights=None, contributions=maps, logits=logits, targets=chosen)


def _grid(height: int, width: int) -> Tensor:
    """Number of the square each pixel is in, without gaps."""
    rows = torch.arange(height) * min(GRID, height) // height
    columns = torch.arange(width) * min(GRID, width) // width
    return rows[:, None] * (int(columns.max()) + 1) + columns


def _coefficients(network: nn.Module, image: Images, target: int, grid: Tensor, source: torch.Generator) -> Tensor:
    from captum._utils.models.linear_model import SkLearnRidge
    from captum.attr import LimeBase

    squares = int(grid.max()) + 1

    def draw(_: Tensor, **__: Any) -> Tensor:  # noqa: ANN401 (captum passes on what it was called with)
        return torch.randint(2, (1, squares), generator=source).to(image)

    def nearness(_: Tensor, __: Tensor, present: Tensor, **___: Any) -> Tensor:  # noqa: ANN401
        distance = 1 - present.mean().sqrt()  # of a binary vector to the one that is 1 everywhere
        return torch.exp(-((distance / KERNEL_WIDTH) ** 2))

    def switched(present: Tensor, original: Tensor, **_: Any) -> Tensor:  # noqa: ANN401
        return original * present[0][grid]

    regression = LimeBase(
        network,
        SkLearnRidge(alpha=RIDGE),
        similarity_func=nearness,
        perturb_func=draw,
        perturb_interpretable_space=True,
        from_interp_rep_transform=switched,
        to_interp_rep_transform=None,
    )
    with torch.random.fork_rng(devices=[]):
        coefficients: Tensor = regression.attribute(
            image.detach(), target=target, n_samples=SAMPLES, perturbations_per_eval=shown_together(image)
        )
    return coefficients[0]
