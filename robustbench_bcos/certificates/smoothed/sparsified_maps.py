"""Sparsified SmoothGrad (Levine, Singla & Feizi, 2019): which pixels stay among the largest contributions."""

import math
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
        from scipy.special import ndtri

        counts = [0] * math.prod(image.shape[2:])
        for part, of_part in smoothed.noisy(image, rng, smoothed.draws):
            found = explain_any(smoothed.classifier, part, label, smoothed.method, rng=of_part).contributions
            counts = [sum(pair) for pair in zip(counts, maps.top(found).sum(dim=0).tolist(), strict=True)]
        kept = maps.top_count(len(counts))
        confidence = 1 - smoothed.alpha / len(counts)
        bounds = {count: clopper_pearson(count, smoothed.draws, confidence) for count in set(counts)}
        ranked = sorted(counts, reverse=True)
        # Where there are fewer others than that, nothing can take the place of a pixel.
        others = [bounds[count].high for count in ranked[kept:]] + [0.0] * kept
        farthest = math.sqrt(image.numel())
        radii = (
            min(farthest, smoothed.sigma / 2 * float(ndtri(bounds[count].low) - ndtri(others[kept - place])))
            for place, count in enumerate(ranked[:kept], start=1)
        )
        return Certified(tuple(rounded_down(radius) if radius > 0 else None for radius in radii))

    def passes(self, draws: int) -> int:
        """Forward and backward, of methods that differentiate once."""
        return 2 * draws
