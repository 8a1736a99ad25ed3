"""What is known of a tensor inside a network while the image varies within a ball.

Two things are known at once, and each sharpens the other: an interval of every value (interval bound propagation,
Gowal et al., 2018), and how far all of them together can move from where the clean image puts them (Lipschitz
constants). Both are of what the network computes, its own rounding included, and are computed in float64.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from robustbench_bcos.core.types import PerImage

SLACK = 1 + 1e-9
"""Factor for the float64 rounding of norms and radii, which errs in the ninth digit at worst."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Bound:
    """A tensor whose first axis counts images.

    Attributes:
        centre: what it is for the clean images, but for rounding.
        low: at least so much is computed, wherever the images are in their balls.
        high: at most so much.
        euclidean: the Euclidean norm of the difference from the centre is at most this, for each image.
        largest: every single value differs from the centre by at most this.
        unit: relative error of one operation of the network.
        rows: where this is a linear map of some features, how, so that differences of values can be bounded as one.
    """

    centre: Tensor
    low: Tensor
    high: Tensor
    euclidean: PerImage
    largest: PerImage
    unit: float
    rows: "Rows | None" = None

    @property
    def shape(self) -> torch.Size:
        """Of the tensor."""
        return self.centre.shape

    @property
    def magnitude(self) -> Tensor:
        """The largest absolute values."""
        return torch.maximum(self.low.abs(), self.high.abs())

    def rounding(self, operations: int) -> float:
        """Relative error of a sum of so many terms, in any order (Higham, 2002, 3.1), and of float64's bounds of it."""
        errors = operations * self.unit
        return errors / (1 - errors) * (1 + 1e-6) if errors < 1 else math.inf

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "Bound":
        """The same values in another arrangement, or the larger of some of them."""
        return replace(self, centre=change(self.centre), low=change(self.low), high=change(self.high), rows=None)

    def sharpened(self) -> "Bound":
        """Nothing moves farther than its interval allows, and no interval is wider than what moves allows."""
        reach = spread(self.largest, self.centre)
        low, high = torch.maximum(self.low, self.centre - reach), torch.minimum(self.high, self.centre + reach)
        apart = torch.maximum(high - self.centre, self.centre - low).flatten(1)
        return replace(
            self,
            low=low,
            high=high,
            euclidean=torch.minimum(self.euclidean, torch.linalg.vector_norm(apart, dim=1) * SLACK),
            largest=torch.minimum(self.largest, apart.amax(dim=1)),
        )

    def rounded(self, by: Tensor) -> "Bound":
        """The same, when each value has been computed with an error."""
        apart = by.flatten(1)
        return replace(
            self,
            low=self.low - by,
            high=self.high + by,
            euclidean=self.euclidean + torch.linalg.vector_norm(apart, dim=1) * SLACK,
            largest=self.largest + apart.amax(dim=1),
        ).sharpened()


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """Values as a linear map of features: its matrix, and how far rounding moves each value."""

    weight: Tensor
    features: Bound
    rounding: Tensor


def spread(per_image: PerImage, like: Tensor) -> Tensor:
    """A number per image, ready to be combined with a tensor."""
    return per_image.view(-1, *[1] * (like.dim() - 1))


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearMap:
    """A linear map and an offset.

    Attributes:
        apply: the map, without the offset.
        absolute: the map with the absolute values of its coefficients.
        offset: added; broadcastable to the output.
        offset_magnitude: of the numbers that the offset is computed from.
        row_norms: Euclidean norm of the coefficients of each output, broadcastable to it.
        row_sums: sum of their absolute values.
        norm: largest ratio of Euclidean norms of output and input.
        operations: roundings on the way to an output.
    """

    apply: Callable[[Tensor], Tensor]
    absolute: Callable[[Tensor], Tensor]
    offset: Tensor | float = 0.0
    offset_magnitude: Tensor | float = 0.0
    row_norms: Tensor | float
    row_sums: Tensor | float
    norm: float
    operations: int

    def __call__(self, bound: Bound) -> Bound:
        """What is known of the output."""
        centre = self.apply(bound.centre) + self.offset
        middle, half = self.apply((bound.low + bound.high) / 2) + self.offset, self.absolute(bound.high - bound.low) / 2
        reach = torch.minimum(
            self.row_norms * spread(bound.euclidean, centre), self.row_sums * spread(bound.largest, centre)
        )
        return replace(
            bound,
            centre=centre,
            low=torch.maximum(middle - half, centre - reach * SLACK),
            high=torch.minimum(middle + half, centre + reach * SLACK),
            euclidean=bound.euclidean * self.norm * SLACK,
            largest=bound.largest * torch.as_tensor(self.row_sums).max().item() * SLACK,
            rows=None,
        ).rounded(self.rounding(bound))

    def rounding(self, bound: Bound) -> Tensor:
        """How far rounding moves each output."""
        return bound.rounding(self.operations) * (self.absolute(bound.magnitude) + self.offset_magnitude)
