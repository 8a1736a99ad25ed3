"""Two handwritten digits side by side on textured ground: made-up scenes whose masks are exact."""

from typing import TYPE_CHECKING, final

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.data import DATASETS
from robustbench_bcos.data.dataset import AbstractNamedDataset, DatasetRequest, Split
from robustbench_bcos.data.datasets.digits import Digits, ink_mask

if TYPE_CHECKING:
    import torch

GROUND = 0.25
"""Brightest level of the ground, of 1: a quarter of the ink."""

GRAIN = 2
"""Pixels of the ground between two levels that are drawn; those between them are interpolated."""


@final
@DATASETS.registered("digit_pairs")
class DigitPairs(AbstractNamedDataset):
    """The scans of :class:`Digits`, each in one scene, beside a scan of another class.

    Partners and ground are drawn by a seed, ``digit_pairs:7``; by default 0. The label is the class with more ink.

    Attributes:
        places: positions of the two scans of each scene among the digits, from left to right.
    """

    radii = Digits.radii
    radii_by_default = True
    models_of = "digits"
    argument = "SEED"
    argument_optional = True
    image_shape = (3, 8, 16)
    has_masks = True
    how_to_get = "digit_pairs are made of the digits that come with scikit-learn: run with --dataset digit_pairs"

    def __init__(self, split: Split, seed: int = 0) -> None:
        digits = Digits(split)
        self.name = "digit_pairs" if seed == 0 else f"digit_pairs:{seed}"
        self.class_names = digits.class_names
        self.places = _pairs(digits.labels, seed)
        self._digits, self._seed = digits, seed
        self.labels = [self._largest(index) for index in range(len(self.places))]

    @classmethod
    def locate(cls, request: DatasetRequest) -> None:
        """Whether the seed is one."""
        _seed(request.argument)

    @classmethod
    def open(cls, request: DatasetRequest) -> "DigitPairs":
        """They are made of what is part of scikit-learn."""
        return cls(request.split, _seed(request.argument))

    def read(self, index: int) -> "torch.Tensor":
        """One scene, grey in all three channels: the ink lies on the ground."""
        import torch
        import torch.nn.functional as F

        from robustbench_bcos.core.rng import generator

        ink = torch.cat([self._digits.read(place)[0] for place in self.places[index]], dim=1)
        height, width = ink.shape
        drawn = torch.rand(
            1, 1, height // GRAIN, width // GRAIN, generator=generator(self._seed, "digit_pairs", "ground", index)
        )
        ground = GROUND * F.interpolate(drawn, size=(height, width), mode="bilinear", align_corners=False)[0, 0]
        return torch.maximum(ink, ground).expand(3, -1, -1).clone()

    def mask(self, index: int) -> "torch.Tensor":
        """The ink of each scan is its digit."""
        import torch

        scans = [(self._digits.read(place)[0], self._digits.labels[place]) for place in self.places[index]]
        return torch.cat([ink_mask(ink, digit) for ink, digit in scans], dim=1)

    def _largest(self, index: int) -> int:
        """The class with more pixels of ink, the left one of two that have as many."""
        mask = self.mask(index)
        return max(
            (self._digits.labels[place] for place in self.places[index]), key=lambda one: int((mask == one).sum())
        )


def _pairs(labels: list[int], seed: int) -> list[tuple[int, int]]:
    """Two scans of different classes for each scene, no scan in two; of classes with most left, one each."""
    import torch

    from robustbench_bcos.core.rng import generator

    order = torch.randperm(len(labels), generator=generator(seed, "digit_pairs", "order")).tolist()
    left: dict[int, list[int]] = {}
    for place in order:
        left.setdefault(labels[place], []).append(place)
    pairs: list[tuple[int, int]] = []
    while len(left) > 1:
        # The class with most scans left, and one of the others in turn, so that no class is left over by itself.
        first = max(left, key=lambda digit: (len(left[digit]), -order.index(left[digit][-1])))
        others = [digit for digit in left if digit != first]
        second = others[len(pairs) % len(others)]
        pair = [left[digit].pop() for digit in (first, second)]
        left = {digit: places for digit, places in left.items() if places}
        pairs.append((pair[0], pair[1]) if len(pairs) % 2 else (pair[1], pair[0]))
    return pairs


def _seed(argument: str) -> int:
    try:
        return int(argument or 0)
    except ValueError:
        raise RequestError(
            f"dataset digit_pairs:{argument} takes a seed, a whole number: write digit_pairs:7"
        ) from None
