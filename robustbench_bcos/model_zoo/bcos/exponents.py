"""Exponents B that are learned, one for each B-cos layer or one for all.

B = 1 + softplus(raw), so that it stays above 1. A layer with an exponent of its own takes no short cut at B = 1 or 2,
where B's gradient would be lost, and has the same small number beside |cos| in value and gradient, so that
d|y|/dB = |y| ln|cos| is finite. In explanation mode it is a constant as the whole scale is; folding freezes it.
"""

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.registry import unknown

LearnB = Literal["no", "layer", "shared"]
"""Whether B is learned: not, for each layer, or once for all layers."""

ENDING = ".exponent.raw"
"""How the names of their tensors end."""


class Exponent(nn.Module):
    """B as a parameter.

    Args:
        b: where it begins.

    Raises:
        RequestError: that is not above 1, which no softplus reaches.
    """

    def __init__(self, b: float) -> None:
        super().__init__()
        if not b > 1:
            raise RequestError(f"b must be above 1 to be learned, got {b}: begin at 1.5, say")
        self.raw = nn.Parameter(torch.tensor(math.log(math.expm1(b - 1))))

    def forward(self) -> Tensor:
        """B, above 1."""
        return 1 + F.softplus(self.raw)


def make_exponents(how: str, b: float, layers: int) -> list[Exponent]:
    """An exponent for each of so many layers, the same for all where it is shared; none where B is not learned.

    Raises:
        RequestError: ``how`` is none of ``LearnB``, or B begins at 1.
    """
    if how not in get_args(LearnB):
        raise unknown("learn_b", str(how), get_args(LearnB))
    if how == "shared":
        return [Exponent(b)] * layers
    return [Exponent(b) for _ in range(layers)] if how == "layer" else []
