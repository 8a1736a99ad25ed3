"""Square (Andriushchenko et al., 2020): a random search that asks for logits and never for a gradient."""

import math
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from robustbench_bcos.attacks.attack import AttackResult, check_epsilon
from robustbench_bcos.attacks.losses import margin
from robustbench_bcos.attacks.norms import AbstractNorm
from robustbench_bcos.attacks.restarts import ActiveState, SearchState, turns
from robustbench_bcos.core.prediction import predicted_classes
from robustbench_bcos.core.registry import Registry
from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.core.types import Classifier, Images, Labels, PerImage

Draws = Float[Tensor, "image number"]
"""Uniform in [0, 1), in float64; each image has its own."""

MOVES: Registry["AbstractMoves"] = Registry("norm of Square")

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Moves after which windows have half the area; not rescaled to the number of queries, as in AutoAttack."""

CHUNK = 250
"""Moves for which an image draws at once. Never fewer, so that a short search is the beginning of a long one."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Square:
    """Change one random window of each image after the other, and keep what raises the margin.

    An image leaves the batch when it is misclassified. Windows reach every pixel, as in the paper; the published code
    draws their corners from one position too few and leaves out the last row and column.

    Args:
        queries: forward passes of a restart at most, the start included.
        restarts: how often the search is run at most.
        share: of the pixels, the part in the first windows.

    Raises:
        ValueError: queries or restarts below 1, or a share outside ]0, 1].
    """

    queries: int = 5000
    restarts: int = 1
    share: float = 0.8

    def __post_init__(self) -> None:
        if self.queries < 1 or self.restarts < 1:
            raise ValueError(f"expected queries and restarts of at least 1, got {self.queries} and {self.restarts}")
        if not 0 < self.share <= 1:
            raise ValueError(f"expected a share above 0 and up to 1, got {self.share}")

    def __call__(
        self,
        classifier: Classifier,
        images: Images,
        labels: Labels,
        ball: AbstractNorm,
        epsilon: float,
        generator: PerImageRng | None = None,
    ) -> AttackResult:
        """Search the ball around each image; without a generator, image i draws as index i of seed 0.

        Raises:
            ValueError: Square has no moves for this norm, or no ball has this radius.
        """
        check_epsilon(epsilon)
        if ball.name not in MOVES:
            raise ValueError(f"expected a norm that Square has moves for ({', '.join(MOVES)}), got {ball.name}")
        search = _Search(self, classifier, images.detach(), labels, ball, epsilon)
        for _, active, sources in turns(search.fallen, restarts=self.restarts, generator=generator):
            search.run(active, sources)
        return AttackResult(search.candidates, search.trace)

    def share_of(self, move: int) -> float:
        """Part of the pixels in the windows of a move, counted from 0."""
        return self.share * 0.5 ** bisect_left(HALVINGS, move)


class AbstractMoves(ABC):
    """How the search walks in one norm. Deltas may leave the ball and the pixel box: they are projected afterwards."""

    @abstractmethod
    def draws(self, shape: torch.Size) -> tuple[int, int]:
        """How many numbers it takes to begin and to make a move, for an image of this shape."""

    @abstractmethod
    def begin(self, shape: torch.Size, epsilon: float, draws: Draws) -> Images:
        """First deltas of as many images as there are draws for."""

    @abstractmethod
    def move(self, deltas: Images, epsilon: float, share: float, draws: Draws) -> Images:
        """Other deltas, which differ in windows that hold this share of the pixels, if there is room for them."""


@final
class LinfMoves(AbstractMoves):
    """Every pixel is at one end of its range; a window is set to one end in each channel."""

    def draws(self, shape: torch.Size) -> tuple[int, int]:
        """A sign for each column and channel; a corner and a sign for each channel."""
        channels, _, width = shape
        return channels * width, 2 + channels

    def begin(self, shape: torch.Size, epsilon: float, draws: Draws) -> Images:
        """Vertical stripes."""
        channels, height, width = shape
        return epsilon * _signs(draws).view(-1, channels, 1, width).expand(-1, -1, height, -1)

    def move(self, deltas: Images, epsilon: float, share: float, draws: Draws) -> Images:
        """Add 2 epsilon or take it away: the projection does the rest."""
        channels, height, width = deltas.shape[1:]
        side = min(max(round(math.sqrt(share * height * width)), 1), height, width)
        window = _windows(draws[:, :2], deltas.shape, side)
        change = 2 * epsilon * _signs(draws[:, 2:]).to(deltas)[:, :, None].expand(-1, -1, side * side)
        return deltas.flatten(2).scatter_add(2, window.expand(-1, channels, -1), change).view_as(deltas)


@final
class L2Moves(AbstractMoves):
    """The whole radius is spent; one window's share of it is moved into another one, where it forms two pyramids.

    What a channel of the new window gets is what the two windows held of that channel, and its part of what the pixel
    box had left unspent (algorithm 3). AutoAttack's code takes what they held of all channels, for each.
    """

    def draws(self, shape: torch.Size) -> tuple[int, int]:
        """Of each tile, a sign for each channel and a direction; two corners, a sign for each channel, a direction."""
        channels = shape[0]
        _, rows, columns = _tiles(shape)
        return (channels + 1) * rows * columns, 4 + channels + 1

    def begin(self, shape: torch.Size, epsilon: float, draws: Draws) -> Images:
        """Tiles of two pyramids each, five along the shorter side."""
        channels, height, width = shape
        side, rows, columns = _tiles(shape)
        signs, turned = draws.view(-1, channels + 1, rows, columns, 1, 1).split([channels, 1], dim=1)
        tiles = _signs(signs) * _pyramids(side, turned)
        grid = tiles.transpose(3, 4).reshape(len(draws), channels, rows * side, columns * side)
        below, beside = height - rows * side, width - columns * side
        deltas = F.pad(grid, (beside // 2, beside - beside // 2, below // 2, below - below // 2))
        return epsilon * _unit(deltas.flatten(1)).view_as(deltas)

    def move(self, deltas: Images, epsilon: float, share: float, draws: Draws) -> Images:
        """Empty one window for another, which also gets what is missing to epsilon."""
        channels, height, width = deltas.shape[1:]
        shorter = min(height, width)
        # Odd, so that a pyramid has a middle, and no wider than the image.
        side = min(max(round(math.sqrt(share * height * width)), 3) | 1, shorter - (shorter + 1) % 2)
        target, source = (
            _windows(corner, deltas.shape, side).expand(-1, channels, -1) for corner in (draws[:, :2], draws[:, 2:4])
        )
        pixels = deltas.flatten(2)
        emptied = pixels.scatter(2, source, 0)
        held = _squares(pixels.gather(2, source)) + _squares(emptied.gather(2, target))
        unspent = (epsilon**2 - _squares(deltas.flatten(1))).clamp(min=0)[:, None] / channels
        pyramids = _pyramids(side, draws[:, -1].view(-1, 1, 1, 1)).flatten(2).to(deltas)
        signs = _signs(draws[:, 4:-1]).to(deltas)[:, :, None]
        added = _unit(signs * pyramids + _unit(pixels.gather(2, target))) * (held + unspent).sqrt()
        return emptied.scatter(2, target, added).view_as(deltas)


MOVES.register("l2", L2Moves())
MOVES.register("linf", LinfMoves())


@dataclass
class _Walk(ActiveState):
    """Where a restart stands, for each image that is still attacked."""

    active: Tensor
    """Its position in the batch."""
    images: Images
    labels: Labels
    best: Images
    margins: PerImage
    """Of the best."""
    draws: Tensor
    """For the moves of a chunk: (image, move, number)."""


class _Search(SearchState):
    """The state of one call: what is proposed so far for each image."""

    def __init__(
        self, square: Square, classifier: Classifier, images: Images, labels: Labels, ball: AbstractNorm, epsilon: float
    ) -> None:
        super().__init__(classifier, images, labels, ball)
        self.square = square
        self.epsilon = epsilon
        self.moves = MOVES[ball.name]
        self.margins = torch.full((len(images),), -torch.inf, dtype=torch.float64, device=images.device)

    @torch.no_grad()
    def run(self, active: Tensor, sources: Sequence[torch.Generator]) -> None:
        """One restart on the active images, with a source for each image of the batch."""
        images, shape = self.images[active], self.images.shape[1:]
        to_begin, to_move = self.moves.draws(shape)
        draws = self._draw(active, sources, 1, to_begin)
        nothing = torch.full_like(self.margins[active], -torch.inf)
        walk = _Walk(active, images, self.labels[active], best=images, margins=nothing, draws=draws)
        self._ask(walk, self.moves.begin(shape, self.epsilon, draws[:, 0]))
        for move in range(self.square.queries - 1):
            if len(walk.active) == 0:
                return
            if move % CHUNK == 0:
                walk.draws = self._draw(walk.active, sources, CHUNK, to_move)
            share, deltas = self.square.share_of(move), walk.best - walk.images
            self._ask(walk, self.moves.move(deltas, self.epsilon, share, walk.draws[:, move % CHUNK]))
        # A restart that fools nobody counts only where its margin is higher than what was found before.
        better = walk.margins > self.margins[walk.active]
        self.candidates[walk.active[better]] = walk.best[better]
        self.margins[walk.active] = self.margins[walk.active].maximum(walk.margins)

    def _draw(self, active: Tensor, sources: Sequence[torch.Generator], moves: int, numbers: int) -> Tensor:
        # In float64, where a number below 1 stays below 1 when it is scaled to a number of positions.
        draws = [torch.rand(moves, numbers, generator=sources[image], dtype=torch.float64) for image in active.tolist()]
        return torch.stack(draws).to(self.images.device)

    def _ask(self, walk: _Walk, deltas: Images) -> None:
        """Classify other images; take over those that are better, let go of what has fallen."""
        asked = (walk.images + self.ball.project(deltas.to(walk.images), self.epsilon)).clamp(0, 1)
        logits = self.classifier(asked)
        self.trace.forward_passes[walk.active] += 1
        wrong = predicted_classes(logits) != walk.labels
        margins = margin(logits.double(), walk.labels)
        better = wrong | (margins > walk.margins)
        walk.best = torch.where(better.view(-1, 1, 1, 1), asked, walk.best)
        walk.margins = torch.where(better, margins, walk.margins)
        self.candidates[walk.active[wrong]] = asked[wrong]
        self.fallen[walk.active] = wrong
        walk.keep(~wrong)


def _signs(draws: Tensor) -> Tensor:
    return torch.where(draws < 0.5, -1.0, 1.0).to(draws)


def _windows(corners: Draws, shape: torch.Size, side: int) -> Int[Tensor, "image 1 pixel"]:
    """Positions in a flattened channel of the pixels of one square per image, all positions equally likely."""
    height, width = shape[-2:]
    top, left = ((corners[:, i] * (length - side + 1)).long() for i, length in enumerate((height, width)))
    along = torch.arange(side, device=corners.device)
    rows, columns = top[:, None] + along, left[:, None] + along
    return (rows[:, :, None] * width + columns[:, None, :]).flatten(1)[:, None]


def _tiles(shape: torch.Size) -> tuple[int, int, int]:
    """Side, and number of rows and columns."""
    _, height, width = shape
    side = max(min(height, width) // 5, 1)
    return side, height // side, width // side


def _pyramids(side: int, turned: Tensor) -> Tensor:
    """A square of two pyramids, one above the other or, where it is turned, beside it."""
    upright = _upright(side).to(turned)
    return torch.where(turned < 0.5, upright, upright.T)


@cache
def _upright(side: int) -> Tensor:
    """One pyramid up and one down, of norm 1 together, in float64."""
    upper = side // 2
    return _unit(torch.cat([_pyramid(upper, side), -_pyramid(side - upper, side)]).flatten()).view(side, side)


def _pyramid(height: int, width: int) -> Tensor:
    """Of norm 1; k steps from its middle, it is as high as 1 / (k + 1)^2 and all further such terms."""
    steps = max(height, width) // 2 + 1
    terms = 1 / torch.arange(1, steps + 1, dtype=torch.float64) ** 2
    heights = terms.flip(0).cumsum(0).flip(0)
    rows, columns = ((torch.arange(length) - length // 2).abs() for length in (height, width))
    return _unit(heights[torch.maximum(rows[:, None], columns)].flatten()).view(height, width)


def _unit(values: Tensor) -> Tensor:
    """Of norm 1 along the last dimension; 0 stays 0."""
    sizes = torch.linalg.vector_norm(values, dim=-1, keepdim=True)
    return values / torch.where(sizes > 0, sizes, 1)


def _squares(values: Tensor) -> Tensor:
    """Sum of squares along the last dimension, which is kept."""
    return values.square().sum(dim=-1, keepdim=True)
