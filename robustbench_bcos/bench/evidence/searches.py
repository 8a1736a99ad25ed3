"""The further attacks that a cell is examined with."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from robustbench_bcos.attacks.apgd import APGD
from robustbench_bcos.attacks.attack import Attack
from robustbench_bcos.attacks.losses import LOSSES
from robustbench_bcos.attacks.noise import Noise
from robustbench_bcos.attacks.square import Square
from robustbench_bcos.bench.cells import TARGETED, Cell
from robustbench_bcos.bench.target import build_attack

FEWEST_STEPS = 20
"""Steps of a further attack at least: too few steps do not refute too few steps."""

DRAWS = 10
"""Draws of random noise."""

QUERIES = 1000
"""Queries of Square, where they are not limited by what the attack itself has cost."""

TARGETS = 5
"""Wrong classes that the targeted search aims at: it finds what no untargeted one does, and costs no more, because each
has as many steps less."""


class SecondSearch(NamedTuple):
    """Attacks on the same images, one after the other on what still stands."""

    attacks: Sequence[Attack]
    passes: int
    """Forward and backward passes of one image at most."""


def more_steps(cell: Cell, loss: str) -> SecondSearch:
    """The same attack with four times the steps, draws or queries, from a random start."""
    longer = replace(cell, count="any", restarts=1)
    if cell.attack == "noise":
        longer = replace(longer, restarts=4 * cell.restarts)
        return SecondSearch([build_attack(longer, loss)], longer.restarts)
    if cell.attack == "square":
        longer = replace(longer, queries=4 * cell.queries)
        return SecondSearch([build_attack(longer, loss)], longer.passes)
    if cell.attack == "pgd":
        longer = replace(longer, steps=4 * cell.steps, step_size=None, start="random")
        return SecondSearch([build_attack(longer, loss)], longer.passes)
    # An ensemble has no number of steps; its longest search does.
    apgd = APGD(steps=4 * cell.steps, loss=LOSSES[_own(loss)], targets=cell.targets if cell.attack == "apgd" else 0)
    return SecondSearch([apgd], max(apgd.targets, 1) * (2 * apgd.steps + 1))


def other_losses(cell: Cell, loss: str) -> SecondSearch:
    """Auto-PGD, as many steps as the attack, with the margin, and with DLR aimed at the likeliest wrong classes.

    Where one of the two is the attack's own, it is cross-entropy's turn.
    """
    steps = max(cell.steps, FEWEST_STEPS)
    attacks = [
        APGD(steps=steps, loss=LOSSES["ce" if loss == "margin" else "margin"]),
        APGD(steps=steps) if loss == TARGETED else APGD(steps=-(-steps // TARGETS), targets=TARGETS),
    ]
    return SecondSearch(attacks, 2 * (2 * steps + 1) + 2 * TARGETS)


def black_box(cell: Cell, loss: str) -> SecondSearch:
    """Square, with as many queries as the attack has passes."""
    queries = min(max(2 * cell.steps, 100), QUERIES)
    return SecondSearch([Square(queries=queries)], queries)


def long_black_box(cell: Cell, loss: str) -> SecondSearch:
    """Square, whatever the attack has cost."""
    return SecondSearch([Square(queries=QUERIES)], QUERIES)


def noise(cell: Cell, loss: str) -> SecondSearch:
    """Random draws from the ball."""
    return SecondSearch([Noise(restarts=DRAWS)], DRAWS)


def unbounded(cell: Cell, loss: str) -> SecondSearch:
    """The attack itself, for a ball that holds every image."""
    alike = replace(cell, step_size=None, steps=max(cell.steps, FEWEST_STEPS) if cell.steps else 0, count="any")
    return SecondSearch([build_attack(alike, loss)], alike.passes)


class Share(NamedTuple):
    """A search, and what part of the attack's cost it may spend; all together never spend more than the attack."""

    search: Callable[[Cell, str], SecondSearch]
    part: float


QUICK: dict[str, Share] = {
    "unbounded_attack": Share(unbounded, 1 / 16),
    "noise": Share(noise, 1 / 16),
    "black_box": Share(black_box, 1 / 8),
    "more_steps": Share(more_steps, 1 / 4),
    "other_losses": Share(other_losses, 1.0),
}
"""By the name of the check; the last one has what the others leave."""

FULL: dict[str, Share] = QUICK | {"black_box": Share(long_black_box, math.inf)}
"""The same where all images are examined, whatever that costs."""


def full_passes(cell: Cell) -> int:
    """Forward and backward passes that ``full`` evidence spends at most on an image that withstands everything."""
    loss = "ce" if cell.loss in ("", "auto") else cell.loss
    return sum(share.search(cell, loss).passes for share in FULL.values())


def _own(loss: str) -> str:
    return loss if loss and loss != TARGETED else "ce"
