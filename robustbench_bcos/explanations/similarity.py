"""How similar two contribution maps are, by seven measures; a plug-in can register more.

Each takes two maps of every image and gives a number for every image; nothing is normalised over a batch. Where a
measure is not defined (a map of zeros has no direction, a constant map no correlation) the number is NaN. Columns of
tables are in the order in which measures are registered.
"""

from collections.abc import Callable
from functools import update_wrapper
from typing import final

from robustbench_bcos.core import maps as of_maps
from robustbench_bcos.core.deferred import torch
from robustbench_bcos.core.division import divide
from robustbench_bcos.core.registry import Registry
from robustbench_bcos.core.types import Maps, PerImage, Tensor

SSIM_WINDOW = 7
SSIM_RANGE = 2.0
SSIM_CONSTANTS = (0.01, 0.03)
"""K1 and K2 of Wang et al. (2004), shares of the range."""


@final
class Distance:
    """A measure that is the smaller the more similar maps are: a decorator of the function.

    What is not declared as one is a similarity.
    """

    def __init__(self, compare: Callable[[Maps, Maps], PerImage]) -> None:
        update_wrapper(self, compare)
        self._compare = compare

    def __call__(self, first: Maps, second: Maps) -> PerImage:
        """A number for every image."""
        return self._compare(first, second)


MEASURES: Registry[Callable[[Maps, Maps], PerImage]] = Registry(
    "measure of similarity", group="robustbench_bcos.similarity_measures"
)


@MEASURES.registered("cosine")
def cosine(first: Maps, second: Maps) -> PerImage:
    """Cosine of the angle between the maps, in [-1, 1]; 1 is equal up to scale."""
    return of_maps.cosine(_flat(first), _flat(second))


@MEASURES.registered("pearson")
def pearson(first: Maps, second: Maps) -> PerImage:
    """Linear correlation over pixels, in [-1, 1]."""
    return of_maps.cosine(_centred(_flat(first)), _centred(_flat(second)))


@MEASURES.registered("spearman")
def spearman(first: Maps, second: Maps) -> PerImage:
    """Correlation of the ranks of pixels, ties sharing theirs, in [-1, 1]."""
    return of_maps.cosine(_centred(_ranks(first)), _centred(_ranks(second)))


@MEASURES.registered("topk")
def topk(first: Maps, second: Maps) -> PerImage:
    """Share of the 10 % largest contributions that the maps have in common, in [0, 1] (Ghorbani et al., 2019).

    Of contributions that are equal, as the zeros of a sparse map are, none comes first for the place it has: all of
    them are among the largest, or none is, and the maps' larger set is what the common ones are a share of. NaN where
    a map is constant.
    """
    tops = [of_maps.top(maps.detach()) for maps in (first, second)]
    common = (tops[0] & tops[1]).sum(dim=1).double()
    sizes = torch.stack([top.sum(dim=1) for top in tops]).double()
    return torch.where(sizes.amin(dim=0) > 0, common / sizes.amax(dim=0), torch.nan)


@MEASURES.registered("ssim")
def ssim(first: Maps, second: Maps) -> PerImage:
    """Structural similarity (Wang et al., 2004) in a uniform window of 7 pixels; not defined for smaller images.

    Each map is divided by its own largest magnitude, so that the range is 2. Beyond the border the map is mirrored.
    """
    if min(first.shape[1:]) < SSIM_WINDOW:
        return first.new_full((len(first),), torch.nan, dtype=torch.float64)
    first, second = _mirrored(_scaled(first)), _mirrored(_scaled(second))
    moments = torch.stack([first, second, first.square(), second.square(), first * second])
    mean, other_mean, square, other_square, product = torch.nn.functional.avg_pool2d(moments, SSIM_WINDOW, stride=1)
    # Rounding leaves a constant window a variance below 0.
    variances = (square - mean.square()).clamp(min=0) + (other_square - other_mean.square()).clamp(min=0)
    small, smaller = ((constant * SSIM_RANGE) ** 2 for constant in SSIM_CONSTANTS)
    luminance = (2 * mean * other_mean + small) / (mean.square() + other_mean.square() + small)
    structure = (2 * (product - mean * other_mean) + smaller) / (variances + smaller)
    similarity: Tensor = (luminance * structure).mean(dim=(1, 2))
    return similarity


@MEASURES.registered("mass")
@Distance
def mass(first: Maps, second: Maps) -> PerImage:
    """L1 distance between the magnitudes of the maps, each normalised to sum 1, in [0, 2]; 0 is equal up to scale."""
    return (of_maps.shares(first.detach()) - of_maps.shares(second.detach())).abs().sum(dim=(1, 2))


@MEASURES.registered("centre")
@Distance
def centre(first: Maps, second: Maps) -> PerImage:
    """Distance in pixels between the centres of mass of the magnitudes (Ghorbani et al., 2019, without rounding)."""
    centres = of_maps.mass_centre(first.detach()), of_maps.mass_centre(second.detach())
    distance: Tensor = torch.linalg.vector_norm(centres[0] - centres[1], dim=1)
    return distance


def _flat(maps: Tensor) -> Tensor:
    return of_maps.flat(maps.detach())


def _centred(flat: Tensor) -> Tensor:
    centred = flat - flat.mean(dim=1, keepdim=True)
    # Rounding leaves a constant map a direction, which means nothing.
    constant = flat.amin(dim=1, keepdim=True) == flat.amax(dim=1, keepdim=True)
    return centred.masked_fill(constant, 0)


def _ranks(maps: Maps) -> Tensor:
    """From 1 in each row, the mean of theirs for values that are equal; NaN in rows with one."""
    flat = _flat(maps).contiguous()
    ordered = flat.sort(dim=1).values
    below, among = (torch.searchsorted(ordered, flat, right=right) for right in (False, True))
    ranks: Tensor = (below + among + 1).double() / 2
    return ranks.masked_fill(flat.isnan().any(dim=1, keepdim=True), torch.nan)


def _scaled(maps: Maps) -> Tensor:
    maps = maps.detach().double()
    largest = maps.abs().amax(dim=(1, 2), keepdim=True)
    return divide(maps, largest)


def _mirrored(maps: Maps) -> Tensor:
    """With as many pixels beyond each border as a window that is centred at it needs; the border is not repeated."""
    return torch.nn.functional.pad(maps, (SSIM_WINDOW // 2,) * 4, mode="reflect")
