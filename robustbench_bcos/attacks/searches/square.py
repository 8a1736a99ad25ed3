"""Square (Andriushchenko et al., 2020): a random search that asks for logits and never for a gradient."""

import math
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import ClassVar, final

from robustbench_bcos.attacks import ATTACKS
from robustbench_bcos.attacks.attack import Problem, require_known
from robustbench_bcos.attacks.criterion import AbstractCriterion
from robustbench_bcos.attacks.driver import Evaluation, IterativeAttack, Rows, State, check_search
from robustbench_bcos.attacks.halts import Frame
from robustbench_bcos.attacks.norm import AbstractNorm
from robustbench_bcos.core.deferred import torch
from robustbench_bcos.core.registry import Registry
from robustbench_bcos.core.types import Flags, Float, Images, Int, PerImage, Tensor

Draws = Float[Tensor, "image number"]
"""Uniform in [0, 1), in float64; each image has its own."""

MOVES: Registry["AbstractMoves"] = Registry("norm of Square", instances=True)
"""By norm. Somebody's own norm has its moves registered here, or Square refuses it."""

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Moves after which windows have half the area; not rescaled to the number of queries, as in AutoAttack."""

CHUNK = 250
"""Moves for which an image draws at once. Never fewer, so that a short search is the beginning of a long one."""


@final
@ATTACKS.registered("square")
@dataclass(frozen=True, kw_only=True)
class Square(IterativeAttack):
    """Change one random window of each image after the other, and keep what raises the margin.

    An image leaves the batch when it is a success. Windows reach every pixel, as in the paper; the published code
    draws their corners from one position too few and leaves out the last row and column.

    Args:
        queries: forward passes of a restart at most, the start included.
        p_init: part of the pixels in the first windows.

    Raises:
        ValueError: queries or restarts below 1, or a p_init outside ]0, 1].
    """

    uses_gradients = False

    queries: int = 5000
    p_init: float = 0.8

    def __post_init__(self) -> None:
        check_search(moves=self.queries, restarts=self.restarts)
        if not 0 < self.p_init <= 1:
            raise ValueError(f"expected a p_init above 0 and up to 1, got {self.p_init}")

    def check(self, norm: AbstractNorm, criterion: AbstractCriterion) -> None:
        """Refuse a norm that Square has no moves for."""
        require_known(norm, list(MOVES), "Square")

    @property
    def keeps_best(self) -> bool:
        """The last window may have been one of those that were not kept."""
        return True

    @property
    def moves(self) -> int:
        """The first query asks about the start."""
        return self.queries - 1

    def random_start(self, problem: Problem, images: Images, sources: "Sequence[torch.Generator]") -> Images:
        """Stripes or tiles, by the norm."""
        moves, shape = MOVES[problem.threat.norm], images.shape[1:]
        numbers, _ = moves.draws(shape)
        starts = moves.begin(shape, problem.threat.radius, _draws(sources, 1, numbers).to(images.device)[:, 0])
        return problem.threat.project(images, starts.to(images))

    def remember(self, problem: Problem, images: Images, sources: "Sequence[torch.Generator]") -> "Memory":
        """The draws for a chunk of moves, and the sources of further ones."""
        _, numbers = MOVES[problem.threat.norm].draws(images.shape[1:])
        nothing = torch.full((len(images),), -torch.inf, dtype=torch.float64, device=images.device)
        draws = torch.zeros(len(images), CHUNK, numbers, dtype=torch.float64, device=images.device)
        return Memory(best=images, margins=nothing, draws=draws, sources=Sources(list(sources)))

    def step(self, problem: Problem, state: State, found: Evaluation) -> Images:
        """Keep the better of two images, and change a window of it."""
        memory, threat = state.memory, problem.threat
        assert isinstance(memory, Memory)
        better = found.success | (found.losses > memory.margins)
        memory.best = torch.where(better[:, None, None, None], state.iterates, memory.best)
        memory.margins = torch.where(better, found.losses, memory.margins)
        moves, perturbations = MOVES[threat.norm], memory.best - state.images
        number = state.steps % CHUNK
        memory.draw_again((number == 0).nonzero().squeeze(1).tolist())
        draws = memory.draws[torch.arange(len(number), device=number.device), number]
        shares = [self.share_of(step) for step in state.steps.tolist()]
        if len(sizes := dict.fromkeys(shares)) == 1:
            changed = moves.move(perturbations, threat.radius, shares[0], draws).to(perturbations)
        else:
            # Windows of one batch differ in size where images entered it at different times.
            changed = torch.empty_like(perturbations)
            for share in sizes:
                same = torch.tensor([other == share for other in shares], device=number.device)
                changed[same] = moves.move(perturbations[same], threat.radius, share, draws[same]).to(changed)
        return threat.project(state.images, changed)

    def share_of(self, move: int) -> float:
        """Part of the pixels in the windows of a move, counted from 0."""
        return self.p_init * 0.5 ** bisect_left(HALVINGS, move)

    @property
    def passes(self) -> int:
        """The queries of all restarts."""
        return self.restarts * self.queries

    def stronger(self) -> "Square":
        """Four times the queries."""
        return replace(self, queries=4 * self.queries, restarts=1)


@dataclass
class Memory(Rows):
    """Where the search of each image stands."""

    best: Images
    margins: PerImage
    """Of the best."""
    draws: Float[Tensor, "image move number"]
    """For the moves of a chunk."""
    sources: "Sources"

    def draw_again(self, positions: Sequence[int]) -> None:
        """Draw the next chunk for some images."""
        if positions:
            chosen = [self.sources.of_images[position] for position in positions]
            self.draws[positions] = _draws(chosen, CHUNK, self.draws.shape[2]).to(self.draws.device)


@dataclass
class Sources(Rows):
    """A generator for each image: unlike the rest of the state, no tensor."""

    of_images: "list[torch.Generator]"

    def keep(self, staying: Flags) -> None:
        """Drop the other images."""
        self.of_images = [source for source, stays in zip(self.of_images, staying.tolist(), strict=True) if stays]

    def frame(self) -> dict[str, Tensor]:
        """The states of the generators."""
        return {"states": torch.stack([source.get_state() for source in self.of_images])}

    def restore(self, frame: Frame) -> None:
        """Put the generators into these states."""
        for source, state in zip(self.of_images, frame["states"], strict=True):
            # A copy, because torch ends the process over a row of a larger tensor.
            source.set_state(state.cpu().clone())

    def join(self, others: Rows) -> None:
        """Append other images."""
        assert isinstance(others, Sources)
        self.of_images = self.of_images + others.of_images


def _draws(sources: "Sequence[torch.Generator]", moves: int, numbers: int) -> Float[Tensor, "image move number"]:
    # In float64, where a number below 1 stays below 1 when it is scaled to a number of positions.
    return torch.stack([torch.rand(moves, numbers, generator=source, dtype=torch.float64) for source in sources])


class AbstractMoves(ABC):
    """How the search moves in one norm. Perturbations may leave the threat: they are projected afterwards."""

    name: ClassVar[str]

    @abstractmethod
    def draws(self, shape: "torch.Size") -> tuple[int, int]:
        """How many numbers it takes to begin and to make a move, for an image of this shape."""

    @abstractmethod
    def begin(self, shape: "torch.Size", epsilon: float, draws: Draws) -> Images:
        """First perturbations of as many images as there are draws for."""

    @abstractmethod
    def move(self, perturbations: Images, epsilon: float, share: float, draws: Draws) -> Images:
        """Perturbations that differ in windows of this share of the pixels, if there is room for them."""


@final
@MOVES.registered("linf")
class LinfMoves(AbstractMoves):
    """Every pixel is at one end of its range; a window is set to one end in each channel."""

    def draws(self, shape: "torch.Size") -> tuple[int, int]:
        """A sign for each column and channel; a corner and a sign for each channel."""
        channels, _, width = shape
        return channels * width, 2 + channels

    def begin(self, shape: "torch.Size", epsilon: float, draws: Draws) -> Images:
        """Vertical stripes."""
        channels, height, width = shape
        return epsilon * _signs(draws).view(-1, channels, 1, width).expand(-1, -1, height, -1)

    def move(self, perturbations: Images, epsilon: float, share: float, draws: Draws) -> Images:
        """Add 2 epsilon or take it away: the projection does the rest."""
        channels, height, width = perturbations.shape[1:]
        side = min(max(round(math.sqrt(share * height * width)), 1), height, width)
        window = _windows(draws[:, :2], perturbations.shape, side)
        change = 2 * epsilon * _signs(draws[:, 2:]).to(perturbations)[:, :, None].expand(-1, -1, side * side)
        return perturbations.flatten(2).scatter_add(2, window.expand(-1, channels, -1), change).view_as(perturbations)


class AbstractPyramids(AbstractMoves):
    """What one window held is moved into another one, where it forms two pyramids."""

    order: ClassVar[int]
    """Of the norm: what is summed up and moved is this power of each pixel's change."""
    decay: ClassVar[int]
    """The higher it is, the more pointed are the pyramids."""

    @abstractmethod
    def length(self, held: Tensor, unspent: Tensor, channels: int) -> Tensor:
        """Norm of one channel of the new window.

        Args:
            held: powers of what the two windows held of that channel.
            unspent: that channel's part of what the pixel box had left unspent.
            channels: how many there are.
        """

    def draws(self, shape: "torch.Size") -> tuple[int, int]:
        """Of each tile, a sign for each channel and a direction; two corners, a sign for each channel, a direction."""
        channels = shape[0]
        _, rows, columns = _tiles(shape)
        return (channels + 1) * rows * columns, 4 + channels + 1

    def tiles(self, shape: "torch.Size", draws: Draws) -> Images:
        """Tiles of two pyramids each, five along the shorter side; in each channel of each they are of norm 1."""
        channels, height, width = shape
        side, rows, columns = _tiles(shape)
        signs, turned = draws.view(-1, channels + 1, rows, columns, 1, 1).split([channels, 1], dim=1)
        tiles = _signs(signs) * self._pyramids(side, turned)
        grid = tiles.transpose(3, 4).reshape(len(draws), channels, rows * side, columns * side)
        below, beside = height - rows * side, width - columns * side
        return torch.nn.functional.pad(grid, (beside // 2, beside - beside // 2, below // 2, below - below // 2))

    def move(self, perturbations: Images, epsilon: float, share: float, draws: Draws) -> Images:
        """Empty one window for another, which also gets what is missing to epsilon."""
        channels, height, width = perturbations.shape[1:]
        shorter = min(height, width)
        # Odd, so that a pyramid has a middle, and no wider than the image.
        side = min(max(round(math.sqrt(share * height * width)), 3) | 1, shorter - (shorter + 1) % 2)
        target, source = (
            _windows(corner, perturbations.shape, side).expand(-1, channels, -1)
            for corner in (draws[:, :2], draws[:, 2:4])
        )
        pixels = perturbations.flatten(2)
        emptied = pixels.scatter(2, source, 0)
        held = self._powers(pixels.gather(2, source)) + self._powers(emptied.gather(2, target))
        unspent = (epsilon**self.order - self._powers(perturbations.flatten(1))).clamp(min=0)[:, None] / channels
        pyramids = self._pyramids(side, draws[:, -1].view(-1, 1, 1, 1)).flatten(2).to(perturbations)
        signs = _signs(draws[:, 4:-1]).to(perturbations)[:, :, None]
        added = _unit(signs * pyramids + _unit(pixels.gather(2, target), self.order), self.order)
        return emptied.scatter(2, target, added * self.length(held, unspent, channels)).view_as(perturbations)

    def _pyramids(self, side: int, turned: Tensor) -> Tensor:
        """A square of two pyramids, one above the other or, where it is turned, beside it."""
        upright = _upright(side, self.order, self.decay).to(turned)
        return torch.where(turned < 0.5, upright, upright.T)

    def _powers(self, values: Tensor) -> Tensor:
        """Sum of powers along the last dimension, which is kept."""
        return values.abs().pow(self.order).sum(dim=-1, keepdim=True)


@final
@MOVES.registered("l2")
class L2Moves(AbstractPyramids):
    """The whole radius is spent.

    What a channel of the new window gets is what the two windows held of that channel, and its part of what the pixel
    box had left unspent (algorithm 3). AutoAttack's code takes what they held of all channels, for each.
    """

    order, decay = 2, 2

    def begin(self, shape: "torch.Size", epsilon: float, draws: Draws) -> Images:
        """Tiles, all together as long as the radius."""
        perturbations = self.tiles(shape, draws)
        return epsilon * _unit(perturbations.flatten(1), self.order).view_as(perturbations)

    def length(self, held: Tensor, unspent: Tensor, channels: int) -> Tensor:
        """All of the norm that is left."""
        return (held + unspent).sqrt()


@final
@MOVES.registered("l1")
class L1Moves(AbstractPyramids):
    """More than the radius is spent, and the projection takes away the low parts of the pyramids.

    As AutoAttack's code has it, which is all that Croce & Hein (2021) publish of these numbers.
    """

    order, decay = 1, 4

    def begin(self, shape: "torch.Size", epsilon: float, draws: Draws) -> Images:
        """Tiles of norm 1 in each channel, whatever the radius."""
        return self.tiles(shape, draws)

    def length(self, held: Tensor, unspent: Tensor, channels: int) -> Tensor:
        """The norm that is left, times the number of channels."""
        return channels * (held + unspent)


def _signs(draws: Tensor) -> Tensor:
    return torch.where(draws < 0.5, -1.0, 1.0).to(draws)


def _windows(corners: Draws, shape: "torch.Size", side: int) -> Int[Tensor, "image 1 pixel"]:
    """Positions in a flattened channel of the pixels of one square per image, all positions equally likely."""
    height, width = shape[-2:]
    top, left = ((corners[:, i] * (length - side + 1)).long() for i, length in enumerate((height, width)))
    along = torch.arange(side, device=corners.device)
    rows, columns = top[:, None] + along, left[:, None] + along
    return (rows[:, :, None] * width + columns[:, None, :]).flatten(1)[:, None]


def _tiles(shape: "torch.Size") -> tuple[int, int, int]:
    """Side, and number of rows and columns."""
    _, height, width = shape
    side = max(min(height, width) // 5, 1)
    return side, height // side, width // side


@cache
def _upright(side: int, order: int, decay: int) -> Tensor:
    """One pyramid up and one down, of norm 1 together, in float64."""
    upper = side // 2
    both = torch.cat([_pyramid(upper, side, order, decay), -_pyramid(side - upper, side, order, decay)])
    return _unit(both.flatten(), order).view(side, side)


def _pyramid(height: int, width: int, order: int, decay: int) -> Tensor:
    """Of norm 1; k steps from its middle, it is as high as 1 / (k + 1)^decay and all further such terms."""
    steps = max(height, width) // 2 + 1
    terms = 1 / torch.arange(1, steps + 1, dtype=torch.float64) ** decay
    heights = terms.flip(0).cumsum(0).flip(0)
    rows, columns = ((torch.arange(length) - length // 2).abs() for length in (height, width))
    return _unit(heights[torch.maximum(rows[:, None], columns)].flatten(), order).view(height, width)


def _unit(values: Tensor, order: int) -> Tensor:
    """Of norm 1 along the last dimension; 0 stays 0."""
    sizes = torch.linalg.vector_norm(values, ord=order, dim=-1, keepdim=True)
    return values / torch.where(sizes > 0, sizes, 1)
