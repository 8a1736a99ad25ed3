"""Sparsified SmoothGrad (Levine, Singla & Feizi, 2019): which pixels stay among the largest contributions."""

import math
from collections.abc import Sequence
from typing import final

from robustbench_bcos.certificates import CERTIFICATES
from robustbench_bcos.certificates.certificate import AbstractCertificate, Certified, Smoothed
from robustbench_bcos.core import maps
from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.core.rounding import rounded_down
from robustbench_bcos.core.statistics import clopper_pearson
from robustbench_bcos.core.types import Images
from robustbench_bcos.explanations.explanation import explain_any


@final
@CERTIFICATES.registered("sparsified_maps")
class SparsifiedMaps(AbstractCertificate):
    """Each map of a noisy image becomes 1 on its largest 10 % and 0 elsewhere; the smoothed map is their mean.

    A part of the statement is one more pixel of the smoothed map's largest 10 % that is still among them wherever the
    image moves within the radius. The map is that of the label, whatever is predicted.

    Every value h of the smoothed map moves by at most the radius over sigma on the scale of Phi^-1. Of K pixels fewer
    than i stay only where one of the i surest falls behind one of the K - i + 1 likeliest others, so that i stay within
    sigma / 2 (Phi^-1(low of the i-th) - Phi^-1(high of that other one)). Both are bounds of Clopper and Pearson,
    corrected for the number of pixels.
    """

    certifies = "largest contributions of the smoothed map"

    def certify(self, smoothed: Smoothed, image: Images, label: int, rng: PerImageRng) -> Certified:
        """Within which radius 1, 2, ... of the K largest contributions stay among the K largest."""
        counts = [0] * math.prod(image.shape[2:])
        for part, of_part in smoothed.noisy(image, rng, smoothed.draws):
            found = explain_any(smoothed.classifier, part, label, smoothed.method, rng=of_part).contributions
            counts = [sum(pair) for pair in zip(counts, maps.top(found).sum(dim=0).tolist(), strict=True)]
        radii = radii_of(counts, maps.top_count(len(counts)), smoothed)
        return Certified(tuple(rounded_down(radius) if radius > 0 else None for radius in radii))

    def largest(self, draws: int, alpha: float, pixels: int) -> float:
        """Where a pixel is among the largest in every draw, and another in none."""
        from scipy.special import ndtri

        always, never = (clopper_pearson(count, draws, 1 - alpha / pixels) for count in (draws, 0))
        return float(ndtri(always.low) - ndtri(never.high)) / 2

    def passes(self, draws: int) -> int:
        """Forward and backward, of methods that differentiate once."""
        return 2 * draws


def radii_of(counts: Sequence[int], kept: int, smoothed: Smoothed) -> list[float]:
    """Within which radius 1, 2, ... of the pixels that are largest most often stay so; not positive where none does.

    Args:
        counts: draws in which each pixel is among the largest.
        kept: pixels that are the largest; others are at least as many.
        smoothed: the noise, and how many draws.
    """
    from scipy.special import ndtri

    confidence = 1 - smoothed.alpha / len(counts)
    bounds = {count: clopper_pearson(count, smoothed.draws, confidence) for count in set(counts)}
    ranked = [bounds[count] for count in sorted(counts, reverse=True)]
    pairs = zip(ranked[:kept], reversed(ranked[kept : 2 * kept]), strict=True)
    return [smoothed.sigma / 2 * float(ndtri(one.low) - ndtri(other.high)) for one, other in pairs]
