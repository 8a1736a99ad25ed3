"""One model under one attack: the unit of work, and of what is reported."""

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from robustbench_bcos.bench.config import Grid
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.quantities import Quantity
from robustbench_bcos.core.selection import Count, Select, Start

if TYPE_CHECKING:
    from robustbench_bcos.attacks.attack import Attack

TARGETED = "targeted_dlr"
"""The loss that aims at one wrong class after another; Auto-PGD alone has it."""

COUNTED: dict[Select, Count] = {"first_success": "any", "last": "last", "best_loss": "best-loss"}
"""What attacks call them."""

FAB_PASSES = 3
"""Forward and backward passes of a step of FAB."""

STANDARD: dict[str, Any] = {"steps": 100, "start": "random", "restarts": 1, "queries": 5000, "targets": 9}
"""AutoAttack's standard version (Croce & Hein, 2020)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """A point of the grid. Fields that an attack does not have are 0 or empty."""

    model: str
    attack: str
    norm: str
    radius: Quantity
    steps: int
    step_size: Quantity | None
    """``None`` is 2.5 * epsilon / steps, or for APGD whatever it finds."""
    loss: str
    """``auto`` until the model is known."""
    restarts: int
    start: Start
    count: Count
    space: str
    queries: int = 0
    """Of Square, per image and restart."""
    targets: int = 0
    """Wrong classes aimed at, at most."""

    @property
    def key(self) -> str:
        """All that tells it apart from other cells of a run, as text."""
        parts = [self.model, self.attack, self.norm, self.radius.text, str(self.steps), str(self.step_size or "auto")]
        parts += [self.loss or "-", str(self.restarts), self.start, self.count, self.space]
        numbers = {"queries": self.queries, "targets": self.targets}
        return " ".join([*parts, *(f"{name}{number}" for name, number in numbers.items() if number)])

    @property
    def refills(self) -> bool:
        """Whether images leave one by one and others take their places: the search knows no other end than its own."""
        return self.attack == "pgd" and self.count == "any"

    @property
    def effort(self) -> tuple[float, int]:
        """By which the cells of a model are put in order: whatever an earlier one finds, a later one may use."""
        return self.radius.value, self.steps

    def includes(self, other: "Cell") -> bool:
        """Whether another cell is the same search with fewer steps, within a smaller ball, or both."""
        alike = replace(other, radius=self.radius, steps=self.steps) == self
        return alike and other != self and other.radius.value <= self.radius.value and other.steps <= self.steps

    def loss_of(self, own: str) -> str:
        """The loss that is ascended, given the model's own."""
        return own if self.loss == "auto" else self.loss

    def as_dict(self) -> dict[str, Any]:
        """The cell as JSON takes it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Cell":
        """The inverse of :meth:`as_dict`."""
        step_size = values["step_size"]
        return cls(
            **{
                **values,
                "radius": Quantity(**values["radius"]),
                "step_size": None if step_size is None else Quantity(**step_size),
            }
        )

    @property
    def passes(self) -> int:
        """Forward and backward passes of one image that withstands every restart."""
        if self.attack == "square":
            return self.restarts * self.queries
        search = 2 * self.steps + 1
        # Whoever aims looks at the clean image first; FAB also looks at what it has found for each target.
        targeted = 1 + self.targets * self.restarts * search
        fab = 1 + self.targets * (FAB_PASSES * self.steps + 1)
        if self.attack == "autoattack":
            # Auto-PGD once without and once with targets, FAB, Square; and a look at what still stands between them.
            return search + targeted + fab + self.queries + 3
        if self.attack == "fab":
            return fab
        return targeted if self.targets else self.restarts * search


def make_cells(grid: Grid, models: Sequence[str]) -> list[Cell]:
    """Every combination, model by model; the same radius written twice counts once."""
    radii: dict[float, Quantity] = {}
    for radius in map(Quantity.of, grid.eps):
        radii.setdefault(radius.value, radius)
    threats = list(itertools.product(dict.fromkeys(grid.norm), radii.values()))
    cells: dict[Cell, None] = {}
    for model, attack, (norm, radius), steps, loss, restarts in itertools.product(
        models, grid.attack, threats, grid.steps, grid.loss, grid.restarts
    ):
        settings: dict[str, Any] = {"steps": steps, "loss": loss, "restarts": restarts} | _settings(attack, loss, grid)
        cells[Cell(model=model, attack=attack, norm=norm, radius=radius, space=grid.space, **settings)] = None
    return list(cells)


def cells_of(grid: Grid, models: Sequence[str], attacks: Sequence["str | Attack"]) -> list[Cell]:
    """As :func:`make_cells`, for attacks that are named or given as objects."""
    for attack in attacks:
        if not isinstance(attack, str):
            raise RequestError(f"attack {attack!r} must be named: pgd, say")
    return make_cells(grid, models)


def _settings(attack: str, loss: str, grid: Grid) -> dict[str, Any]:
    """What an attack has of its own, and what it does without."""
    if attack == "pgd":
        step_size = None if grid.step_size is None else Quantity.of(grid.step_size, name="step_size")
        return {"step_size": step_size, "start": grid.start, "count": COUNTED[grid.select]}
    if attack == "apgd":
        targets = grid.targets if loss == TARGETED else 0
        return {"step_size": None, "start": "random", "count": COUNTED[grid.select], "targets": targets}
    own: dict[str, Any] = {"step_size": None, "loss": "", "count": "any"}
    if attack == "noise":
        return own | {"steps": 0, "start": "random"}
    if attack == "square":
        return own | {"steps": 0, "start": "random", "queries": grid.queries}
    if attack == "fab":
        return own | {"start": "image", "restarts": 1, "targets": grid.targets}
    # A published standard has no settings.
    return own | STANDARD


def check_radius(radius: Quantity, norm: str, diameter: float) -> None:
    """Refuse a ball larger than the pixel box it is cut with.

    Raises:
        RequestError: with the fraction of 255 that was probably meant.
    """
    if radius.value > diameter:
        in_levels = norm == "linf" and radius.value <= 255 and radius.value.is_integer()
        meant = f"did you mean {radius.value:g}/255? " if in_levels else ""
        raise RequestError(
            f"--eps {radius.text} for norm {norm} is larger than the whole pixel range, {diameter:g}: {meant}"
            "radii are in units of the pixel range [0, 1]"
        )
