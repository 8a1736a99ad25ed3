"""Where the mass of a contribution map lies, whatever its scale; each can be differentiated, and is in float64."""

from collections.abc import Sequence

from robustbench_bcos.core.deferred import torch
from robustbench_bcos.core.types import Flags, Maps, PerImage, Tensor

TOP_SHARE = 0.1
"""Pixels that count as the top: 10 %, as the 100 of 1,024 in Ghorbani et al. (2019)."""


def top_count(pixels: int) -> int:
    """How many pixels of a map are the top."""
    return max(1, round(TOP_SHARE * pixels))


def flat(maps: Maps) -> Tensor:
    """A row for each map."""
    return maps.double().flatten(1)


def cosine(first: Tensor, second: Tensor) -> PerImage:
    """Cosine of the angle between rows; NaN where one is 0."""
    norms = torch.linalg.vector_norm(first, dim=1) * torch.linalg.vector_norm(second, dim=1)
    similarity: Tensor = (first * second).sum(dim=1) / norms
    return similarity


def top(maps: Maps) -> Tensor:
    """Whether a pixel is among the largest 10 %, in rows; those equal to the last all are or none, as comes nearer.

    None is, where a map is constant or not finite.
    """
    values = flat(maps)
    count = top_count(values.shape[1])
    last = values.sort(dim=1, descending=True).values[:, count - 1 : count]
    above, among = values > last, values >= last
    fewer, more = above.sum(dim=1, keepdim=True), among.sum(dim=1, keepdim=True)
    largest = torch.where((fewer > 0) & (count - fewer < more - count), above, among & (more < values.shape[1]))
    return largest.masked_fill(~values.isfinite().all(dim=1, keepdim=True), False)


def shares(maps: Maps) -> Maps:
    """Magnitudes, of which each map's sum to 1; NaN where all are 0."""
    magnitudes = maps.double().abs()
    return magnitudes / magnitudes.sum(dim=(1, 2), keepdim=True)


def mass_centre(maps: Maps) -> Tensor:
    """Row and column of the centre of mass of each map's magnitudes, in pixels."""
    mass = shares(maps)
    height, width = mass.shape[1:]
    rows, columns = (torch.arange(n, dtype=mass.dtype, device=mass.device) for n in (height, width))
    return torch.stack([mass.sum(dim=2) @ rows, mass.sum(dim=1) @ columns], dim=1)


def at_mask(maps: Maps, size: Sequence[int]) -> Maps:
    """Maps in the size of a mask, (height, width): bilinear, in float64."""
    maps = maps.double()
    if tuple(maps.shape[1:]) == tuple(size):
        return maps
    return torch.nn.functional.interpolate(maps[:, None], size=tuple(size), mode="bilinear", align_corners=False)[:, 0]


def energies(maps: Maps, regions: Tensor, valid: Tensor) -> tuple[PerImage, Flags]:
    """The share of each map's positive evidence that is on its object, and which maps have none, whose share is NaN.

    Args:
        maps: one for each object.
        regions: whether a pixel is of the object.
        valid: whether a pixel counts, in all maps.
    """
    positive = maps.clamp(min=0) * valid
    total = positive.flatten(1).sum(dim=1)
    empty = total <= 0
    return ((positive * regions).flatten(1).sum(dim=1) / total).masked_fill(empty, torch.nan), empty
