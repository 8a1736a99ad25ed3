"""What a B-cos layer makes of a bound: where its outputs lie, and how far they move."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_bcos.certificates.bound import SLACK, Bound, LinearMap, spread
from robustbench_bcos.core.types import PerImage
from robustbench_bcos.model_zoo.bcos.closed_form import COSINE_EPSILON


def squared_constant(b: float, squares: Tensor) -> Tensor:
    """The squared Lipschitz constant of a B-cos unit with a filter of norm 1, by its patch, while c^2 is at most this.

    With y = |c|^(B-1) a, where a = w.p and c = a / |p|, the gradient is |c|^(B-1) (B w - (B-1) c p/|p|), of squared
    norm t^(B-1) (B^2 - (B^2-1) t) with t = c^2, which grows up to t = B / (B+1). There the constant is
    sqrt(B (B/(B+1))^(B-1)): 1, 1.1547 and 1.2285 for B = 1, 2 and 2.5. It is one of a *unit* over its patch; how it
    makes one of a layer is said in :class:`BcosMap`.

    Args:
        b: the exponent.
        squares: largest squared cosines.
    """
    reached = squares.clamp(max=b / (b + 1))
    return reached ** (b - 1) * (b * b - (b * b - 1) * reached)


class _Constants(NamedTuple):
    """Lipschitz constants for every input within the ball."""

    slopes: Tensor
    """Of each unit, over the Euclidean norm of its patch."""
    steps: Tensor
    """Of each unit, over the largest change of a value."""
    layer: PerImage
    """Of all units of a position."""


@dataclass(frozen=True, kw_only=True, eq=False)
class BcosMap:
    """A B-cos layer, from its responses a to patches p of norm n.

    *Intervals.* y = |c|^(B-1) a with c = a / n grows with a; with n it falls where a is positive and grows where it is
    negative; and n is never less than |a|. So its extremes are at the ends of the intervals of a and n.

    *Moves.* At one position the layer's Jacobian is D W P, with filters W of norm 1, D = diag(B |c|^(B-1)) and
    P = I - (B-1)/B q q^T for q = p/|p|, so that it stretches by max D times the spectral norm of W at most; nor by more
    than the root of the sum of the units' squared constants (:func:`squared_constant`, of the largest cosine that
    is possible). Both hold for every point between the clean image's patch and another one in the ball,
    because what is known of them, boxes and balls, is convex. Over all positions, each pixel is in ``shared`` patches
    at most, so the patches together move by sqrt(shared) times as much as the map; and the layer by the largest of
    these constants times that. MaxOut hands on one response of several, whose Jacobian has some of the rows of W.

    *Epsilons.* That inside the root of a convolution's norm is a further pixel that never changes, of which filters see
    nothing. That added to a linear layer's norm makes c smaller than w.q, and the squared norm above is then no larger.
    That on the cosine where B is neither 1 nor 2, e, adds 4 e B^2 (1+e)^(2B) to the squared constant at most, and to
    the spectral bound a factor of (1+e)^(B-1) and sqrt(units) e.

    Attributes:
        b: its exponent.
        max_out: units of which the largest response counts.
        groups: of the convolution.
        axis: of the units.
        filters: a row for each unit, of norm 1.
        respond: its linear map.
        energies: sums of squares under each output, or group of outputs.
        inside: added to a sum of squares.
        outside: added to a norm.
        shared: at most so many patches contain a given value.
        stretch: spectral norm of the filters as a matrix.
    """

    b: float
    max_out: int
    groups: int = 1
    axis: int
    filters: Tensor
    respond: LinearMap
    energies: Callable[[Tensor], Tensor]
    inside: float = 0.0
    outside: float = 0.0
    shared: int = 1
    stretch: float

    def __call__(self, bound: Bound) -> Bound:
        """What is known of the output."""
        responses = self.respond(bound)
        if self.max_out > 1:
            responses = responses.mapped(self._largest)
        if self.b == 1:
            return responses.sharpened()
        least, clean, most = self._norms(bound)
        low = self._output(responses.low, torch.where(responses.low > 0, most, least))
        high = self._output(responses.high, torch.where(responses.high > 0, least, most))
        centre = self._output(responses.centre, clean)
        cosines = (responses.magnitude / least).clamp(max=1)
        constants = self._constants(cosines)
        reach = torch.minimum(
            constants.slopes * spread(bound.euclidean, centre), constants.steps * SLACK * spread(bound.largest, centre)
        )
        outputs = replace(
            bound,
            centre=centre,
            low=torch.maximum(low, centre - reach),
            high=torch.minimum(high, centre + reach),
            euclidean=bound.euclidean * math.sqrt(self.shared) * constants.layer * SLACK,
            largest=bound.largest * constants.steps.flatten(1).amax(dim=1) * SLACK,
            rows=None,
        ).sharpened()
        return outputs.rounded(self._rounding(bound, cosines, outputs))

    @cached_property
    def _epsilon(self) -> float:
        """On the cosine."""
        return 0.0 if self.b in (1, 2) else COSINE_EPSILON

    @cached_property
    def _units(self) -> int:
        return len(self.filters) // self.max_out

    @cached_property
    def _sums(self) -> Tensor:
        """Largest absolute sum of the filters of each unit."""
        sums: Tensor = self.filters.abs().sum(dim=1).unflatten(0, (-1, self.max_out)).amax(dim=1)
        return sums if self.axis == -1 else sums[:, None, None]

    def _norms(self, bound: Bound) -> tuple[Tensor, Tensor, Tensor]:
        """Of the patch under each output: the least that is possible, that of the clean image, and the most."""
        same_sign = bound.low.sign() == bound.high.sign()
        smallest = torch.minimum(bound.low.abs(), bound.high.abs()).where(same_sign, 0)
        least, clean, most = (self._norm(values) for values in (smallest, bound.centre, bound.magnitude))
        reach = spread(bound.euclidean, clean)
        least = torch.maximum(least, clean - reach).clamp(min=math.sqrt(self.inside) + self.outside) / SLACK
        return least, clean, torch.minimum(most, clean + reach) * SLACK

    def _norm(self, patches: Tensor) -> Tensor:
        found = (self.energies(patches.square()) + self.inside).sqrt() + self.outside
        if found.shape[self.axis] in (1, self._units):
            return found
        return found.repeat_interleave(self._units // self.groups, dim=1)

    def _largest(self, values: Tensor) -> Tensor:
        at = self.axis % values.dim()
        largest: Tensor = values.unflatten(at, (-1, self.max_out)).amax(dim=at + 1)
        return largest

    def _output(self, responses: Tensor, norms: Tensor) -> Tensor:
        cosines = (responses.abs() / norms.clamp(min=torch.finfo(torch.float64).tiny)).clamp(max=1)
        return responses * (cosines if self.b == 2 else (cosines + self._epsilon) ** (self.b - 1))

    def _constants(self, cosines: Tensor) -> _Constants:
        """While no cosine is larger than these."""
        b, e, inputs = self.b, self._epsilon, self.filters.shape[1]
        squared = squared_constant(b, (cosines + e).square()) + 4 * e * b * b * (1 + e) ** (2 * b)
        factors = b * (cosines + e) ** (b - 1)
        steepest = factors.flatten(1).amax(dim=1) * (self.stretch + math.sqrt(self._units) * e)
        together = squared.sum(dim=self.axis).reshape(len(squared), -1).amax(dim=1).sqrt()
        slopes = squared.sqrt() * SLACK
        # The gradient's absolute sum is at most the root of the number of values times its norm, and that of its parts.
        parts = factors * (self._sums + (b - 1) / b * math.sqrt(inputs) * cosines)
        steps = torch.minimum(slopes * math.sqrt(inputs), parts)
        return _Constants(slopes, steps, torch.minimum(steepest, together))

    def _rounding(self, bound: Bound, cosines: Tensor, outputs: Bound) -> Tensor:
        """How far rounding moves each output.

        It is B |c|^(B-1) times as sensitive to the response's rounding, and (B-1) times to the norm's; twice, because
        of the filters' norms and of products of errors.
        """
        relative = bound.rounding(self.filters.shape[1] + 16)
        sizes = self.respond.absolute(bound.magnitude)
        if self.max_out > 1:
            sizes = self._largest(sizes)
        sensitive = self.b * (cosines + self._epsilon + 4 * relative) ** (self.b - 1)
        return 2 * relative * (sensitive * sizes + self.b * outputs.magnitude)
