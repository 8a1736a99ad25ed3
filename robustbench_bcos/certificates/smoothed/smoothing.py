"""Randomised smoothing (Cohen, Rosenfeld & Kolter, 2019): the class that a network predicts most often under noise."""

from collections import Counter
from typing import final

import torch

from robustbench_bcos.certificates import CERTIFICATES
from robustbench_bcos.certificates.certificate import AbstractCertificate, Certified, Smoothed
from robustbench_bcos.core.prediction import NO_CLASS, predicted_classes
from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.core.rounding import rounded_down
from robustbench_bcos.core.statistics import clopper_pearson
from robustbench_bcos.core.types import Images

SELECTION = 100
"""Draws that choose the class, and say nothing of its probability."""


@final
@CERTIFICATES.registered("smoothing")
class Smoothing(AbstractCertificate):
    """One sample chooses the class, another bounds its probability p from below: the radius is sigma Phi^-1(p).

    It abstains where that bound is not above a half. Bounds are one-sided ones of Clopper and Pearson.
    """

    certifies = "predictions of the smoothed classifier"

    @torch.no_grad()
    def certify(self, smoothed: Smoothed, image: Images, label: int, rng: PerImageRng) -> Certified:
        """The class, and within which radius it is that of the smoothed classifier."""
        from scipy.special import ndtri

        chosen = max(_votes(smoothed, image, rng.fold_in("selection"), SELECTION).items(), key=_most, default=None)
        if chosen is not None:
            count = _votes(smoothed, image, rng.fold_in("estimation"), smoothed.draws)[chosen[0]]
            low = clopper_pearson(count, smoothed.draws, 1 - 2 * smoothed.alpha).low
            if low > 0.5:
                return Certified((rounded_down(smoothed.sigma * float(ndtri(low))),), chosen[0])
        return Certified((None,), NO_CLASS)

    def largest(self, draws: int, alpha: float, pixels: int) -> float:
        """Where the class is predicted in every draw."""
        from scipy.special import ndtri

        return float(ndtri(clopper_pearson(draws, draws, 1 - 2 * alpha).low))

    def passes(self, draws: int) -> int:
        """One for each draw of both samples."""
        return SELECTION + draws


def _votes(smoothed: Smoothed, image: Images, rng: PerImageRng, draws: int) -> Counter[int]:
    """How often each class is predicted; no vote is for none."""
    votes = Counter[int]()
    for part, _ in smoothed.noisy(image, rng, draws):
        votes.update(predicted_classes(smoothed.classifier(part)).tolist())
    del votes[NO_CLASS]
    return votes


def _most(vote: tuple[int, int]) -> tuple[int, int]:
    return vote[1], -vote[0]
