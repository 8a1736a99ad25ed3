"""The sum of all changes."""

import math
from collections.abc import Sequence
from typing import final

from robustbench_bcos.attacks import NORMS
from robustbench_bcos.attacks.norm import AbstractNorm, broadcast, or_one, unblocked
from robustbench_bcos.core.deferred import torch
from robustbench_bcos.core.types import Epsilon, Float, Images, PerImage, Tensor

Values = Float[Tensor, "image value"]
"""Flattened images, in float64."""


@final
@NORMS.registered("l1")
class L1(AbstractNorm):
    """The absolute changes of all pixel values add up to at most epsilon."""

    sparse = True
    largest_change = 1.0

    def size(self, perturbation: Images) -> PerImage:
        """Sum of the absolute changes."""
        # Summed in float64: over 150,000 pixels, float32 is off by more than the judge allows.
        norms: PerImage = torch.linalg.vector_norm(perturbation.flatten(1), ord=1, dim=1, dtype=torch.float64)
        return norms.to(perturbation.dtype)

    def steepest_ascent(self, gradient: Images, iterates: Images | None = None) -> Images:
        """The sign of the largest entry, and 0 elsewhere: one pixel value of one channel moves."""
        slopes = (gradient if iterates is None else unblocked(gradient, iterates)).flatten(1)
        # Of equal entries, argmax takes the first.
        steepest = slopes.abs().argmax(dim=1, keepdim=True)
        return torch.zeros_like(slopes).scatter(1, steepest, slopes.gather(1, steepest).sign()).view_as(gradient)

    def direction(self, draws: Images) -> Images:
        """The draws over their sum: the steepest direction would move a single value."""
        return draws / broadcast(or_one(self.size(draws)))

    def advance(self, iterates: Images, gradient: Images, step_size: Epsilon) -> Images:
        """The steepest pixel values move to the end of the pixel box, one after the other, until the step is spent.

        The best step of this size within the box (Croce & Hein, 2021): with the single steepest value alone, no step
        would be longer than that value's room, and 20 steps would not reach an epsilon of 12.
        """
        slopes, pixels = gradient.flatten(1), iterates.double().flatten(1)
        room = torch.where(slopes > 0, 1 - pixels, pixels)
        order = slopes.abs().argsort(dim=1, descending=True, stable=True)
        rooms = torch.where(slopes != 0, room, 0).gather(1, order)
        left = torch.as_tensor(step_size, device=rooms.device).expand(len(rooms))[:, None] - (rooms.cumsum(1) - rooms)
        moves = torch.zeros_like(pixels).scatter(1, order, left.clamp(min=0).minimum(rooms))
        return iterates + (slopes.sign() * moves).view_as(iterates).to(iterates)

    def project_onto_ball(self, perturbation: Images, epsilon: Epsilon) -> Images:
        """Shorten all changes by the same amount, down to 0 (Duchi et al., 2008)."""
        changes = perturbation.double().flatten(1)
        sizes = changes.abs()
        bounds = torch.full_like(sizes, torch.inf)
        nearest = changes.sign() * _shortened(sizes, bounds, epsilon, slack=_slack(perturbation))
        return nearest.view_as(perturbation).to(perturbation)

    def project(self, images: Images, perturbation: Images, epsilon: Epsilon) -> Images:
        """The nearest image in both the ball and the pixel box (Croce & Hein, 2021).

        First into the ball and then into the box would be an allowed image, too, but would leave part of epsilon
        unspent wherever the box cuts a change short; what it cuts off here is spent on the other pixels.
        """
        start, changes = images.double().flatten(1), perturbation.double().flatten(1)
        room = torch.where(changes > 0, 1 - start, start)
        allowed = _shortened(changes.abs(), room, epsilon, slack=_slack(images))
        exact = (start + changes.sign() * allowed).view_as(images)
        nearest = exact.clamp(0, 1).to(images)
        # Storing a pixel may have moved it away from the image, and the sum of 150,000 such moves would leave the ball.
        longer = (nearest.double().flatten(1) - start).abs() > allowed * (1 + _slack(images))
        return torch.where(longer.view_as(images), nearest.nextafter(images), nearest)

    def sample(self, shape: Sequence[int], epsilon: float, generators: "Sequence[torch.Generator]") -> Images:
        """Exponential draws of either sign over their sum, at radius epsilon * u^(1/d): uniform in volume."""
        draws = [_draw(math.prod(shape), generator) for generator in generators]
        return (epsilon * torch.stack(draws)).view(-1, *shape).float()

    def longest(self, shape: Sequence[int]) -> float:
        """That of one value."""
        return 1.0

    def diameter(self, shape: Sequence[int]) -> float:
        """Number of values."""
        return float(math.prod(shape))


def _draw(values: int, generator: "torch.Generator") -> Tensor:
    lengths = torch.empty(values, dtype=torch.float64).exponential_(generator=generator)
    signs = torch.rand(values, generator=generator) < 0.5
    radius = torch.rand(1, generator=generator, dtype=torch.float64) ** (1 / values)
    return torch.where(signs, -lengths, lengths) * (radius / lengths.sum())


def _slack(stored: Images) -> float:
    """How much longer, relatively, subtracting and storing can make what was projected before."""
    return torch.finfo(stored.dtype).eps


def _shortened(sizes: Values, bounds: Values, epsilon: Epsilon, *, slack: float) -> Values:
    """The nearest sizes from 0 to ``bounds`` whose sum is at most epsilon.

    They are the sizes less one amount, cut off at 0 and at the bounds. As the amount falls, what is left of a size
    begins to grow where the amount is the size itself, and stops where it is what the size exceeds its bound by.
    Between these points, which are sorted, the sum is linear in the amount.

    Args:
        sizes: not negative.
        bounds: not negative.
        epsilon: of all images, or of each.
        slack: sums that exceed epsilon by twice this part of it stay, so that a second projection changes nothing.
    """
    epsilons = torch.as_tensor(epsilon, dtype=torch.float64, device=sizes.device).expand(len(sizes))[:, None]
    within = sizes.minimum(bounds)
    points, order = torch.cat([sizes, sizes - within], dim=1).sort(dim=1, descending=True)
    following = torch.cat([points[:, 1:], torch.zeros_like(points[:, :1])], dim=1)
    growing = torch.where(order < sizes.shape[1], 1.0, -1.0).to(sizes).cumsum(dim=1)
    # By point: the sum when the amount has fallen to the following one.
    sums = (growing * (points - following)).cumsum(dim=1)
    last = (sums < epsilons).sum(dim=1, keepdim=True).clamp(max=sums.shape[1] - 1)
    excess = (sums.gather(1, last) - epsilons) / growing.gather(1, last).clamp(min=1)
    amount = following.gather(1, last) + excess
    shortened = (sizes - amount).clamp(min=0).minimum(bounds)
    # The amount is rounded, and its error counts as often as there are sizes. What is at its bound stays there.
    inside = torch.where(shortened < bounds, shortened, 0)
    rest = epsilons - (shortened - inside).sum(dim=1, keepdim=True)
    factor = (rest / or_one(inside.sum(dim=1))[:, None]).clamp(0, 1)
    shortened = torch.where(shortened < bounds, shortened * factor, shortened)
    return torch.where(within.sum(dim=1, keepdim=True) <= epsilons * (1 + 2 * slack), within, shortened)
