"""One model under one threat and attack: the unit of work, and of what is reported."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from robustbench_bcos.attacks import ATTACKS
from robustbench_bcos.attacks.attack import AbstractAttack
from robustbench_bcos.attacks.threat import Threat
from robustbench_bcos.bench.config import Grid
from robustbench_bcos.core.errors import RequestError


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """A point of the grid."""

    model: str
    threat: Threat
    attack: AbstractAttack
    """Its loss is ``auto`` until the model is known."""
    criterion: str
    space: str

    @property
    def key(self) -> str:
        """Identifies the cell within a run, as text."""
        return " ".join([self.model, str(self.threat), self.attack.key, self.criterion, self.space])

    @property
    def work(self) -> str:
        """Where something happens, for a message."""
        return f"in cell {self.key!r}"

    @property
    def effort(self) -> tuple[float, int]:
        """Sort key of a model's cells: a later cell may take over adversarial examples of an earlier one."""
        return self.threat.radius, self.attack.effort

    def includes(self, other: "Cell") -> bool:
        """Whether another cell is the same search with fewer steps, within a smaller epsilon, or both."""
        alike = replace(other, threat=self.threat, attack=self.attack) == self
        return alike and other != self and self.threat.contains(other.threat) and self.attack.extends(other.attack)

    def as_dict(self) -> dict[str, Any]:
        """The cell as JSON takes it."""
        return {
            "model": self.model,
            "norm": self.threat.norm,
            "eps": self.threat.text,
            "attack": {"name": self.attack.name} | self.attack.to_json(),
            "criterion": self.criterion,
            "space": self.space,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Cell":
        """The inverse of :meth:`as_dict`.

        Raises:
            RequestError: it names a norm or an attack that only a plug-in has.
        """
        options = dict(values["attack"])
        return cls(
            model=values["model"],
            threat=Threat.of(values["norm"], values["eps"]),
            attack=ATTACKS[options.pop("name")](**options),
            criterion=values["criterion"],
            space=values["space"],
        )


def make_cells(
    grid: Grid, models: Sequence[str], attacks: Sequence[AbstractAttack] = (), criteria: Sequence[str] = ()
) -> list[Cell]:
    """Every combination by model, kind of attack, threat, options and criterion; what is written twice counts once.

    Args:
        grid: the threats, and the attacks by name with their options.
        models: by name.
        attacks: instead of the grid's.
        criteria: instead of the grid's.

    Raises:
        RequestError: an option that no attack has, or a value that an attack refuses.
    """
    cells: dict[Cell, None] = {}
    kinds = [list(same) for _, same in itertools.groupby(attacks or make_attacks(grid), key=type)]
    for model, kind in itertools.product(models, kinds):
        asked = criteria or (grid.criterion_text,)
        for threat, attack, criterion in itertools.product(make_threats(grid), kind, asked):
            cell = Cell(model=model, threat=threat, attack=attack, criterion=criterion, space=grid.space)
            cells[cell] = None
    return list(cells)


def make_threats(grid: Grid) -> list[Threat]:
    """The threats of a grid; a radius that is written in two ways is one threat."""
    threats: dict[tuple[str, float], Threat] = {}
    for norm, eps in grid.threats:
        threats.setdefault((norm, eps.value), Threat.of(norm, eps))
    return list(threats.values())


def make_attacks(grid: Grid) -> Iterator[AbstractAttack]:
    """The attacks of a grid: each with every combination of the grid's values for the options that it has.

    Raises:
        RequestError: an option that no attack has, or a value that an attack refuses.
    """
    taken = set()
    for name in grid.attack:
        kind = ATTACKS[name]
        options = [field.name for field in fields(kind)]
        taken.update(options)
        given = {option: getattr(grid, option) for option in type(grid).model_fields if option in options}
        given |= {option: value for option, value in grid.option.items() if option in options}
        several = {option: value for option, value in given.items() if isinstance(value, tuple)}
        for values in itertools.product(*several.values()):
            yield _made(kind, given | dict(zip(several, values, strict=True)))
    for option in grid.option:
        if option not in taken:
            known = ", ".join(sorted(taken)) or "none"
            raise RequestError(f"option {option!r} is not one of {', '.join(grid.attack)}: choose from {known}")


def _made(kind: type[AbstractAttack], options: Mapping[str, Any]) -> AbstractAttack:
    try:
        return kind(**options)
    except (ValueError, TypeError) as error:
        raise RequestError(f"attack {kind.name!r} refuses its options ({error}): correct them") from None
