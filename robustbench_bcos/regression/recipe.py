"""Recipes and suites of regression as data: TOML files, of which some ship with the package."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from robustbench_bcos.core.tables import PackagedTables, Table
from robustbench_bcos.core.trainings import name_of
from robustbench_bcos.model_zoo.cards import Family

Kind = Literal["field", "direct"]
"""``field``: a network gives derivatives, which a solver integrates. ``direct``: it gives the states themselves."""


class Recipe(Table):
    """A model of a system, and how it is trained."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    system: str
    kind: Kind = "field"
    family: Family = "bcos"
    b: float = Field(default=1.5, ge=1)
    """Exponent of B-cos layers; conventional layers have none."""
    encoding: bool = True
    """Whether a field sees [z, 1 - z] and not z alone. A B-cos field of z alone is homogeneous, and cannot express
    what has constant or quadratic terms."""
    width: int = Field(default=64, ge=1)
    depth: int = Field(default=3, ge=1)
    """Layers, the last one included."""
    solver: str = "rk4"
    steps: int = Field(default=2, ge=1)
    """Of a solver with fixed steps, between two points in time."""
    solver_tolerance: float = Field(default=1e-6, gt=0)
    """Relative and absolute, of a solver that is adaptive."""
    points: int = Field(default=20, ge=2)
    """Points in time, evenly spaced, beside the initial one."""
    spread: float = Field(default=0.1, ge=0, lt=1)
    """Initial states and parameters are uniform within this part of the nominal ones to either side."""
    trajectories: int = Field(default=64, ge=2)
    """To train on; as many as ``tested`` more are kept for the test."""
    tested: int = Field(default=32, ge=2)
    rollout: int = Field(default=4, ge=1)
    """Points in time that a field is carried over from a true state in training. After 1, the next, small errors are
    unseen that grow over many points."""
    iterations: int = Field(default=1000, gt=0)
    learning_rate: float = Field(default=1e-2, gt=0)
    seed: int = Field(default=0, ge=0)
    """Of the first weights; data are the same for all seeds."""


class Threats(Table):
    """What is attacked, how far, and when it succeeds."""

    norms: tuple[str, ...] = ("l2", "linf")
    eps: tuple[float, ...] = (0.05,)
    """In units of the range of each initial state and parameter in the training data."""
    targets: tuple[Literal["initial", "parameters", "both"], ...] = ("initial",)
    tolerance: float = Field(default=0.1, gt=0)
    """A prediction is right whose root mean square error is at most this, in units of each state's range."""
    steps: int = Field(default=20, ge=1)
    evidence: Literal["off", "quick"] = "quick"
    """Whether to try what could refute the numbers: searches from elsewhere, and noise of the same size."""


class Suite(Table):
    """Models to train and to attack: every variation of a recipe, for every system and seed."""

    description: str = ""
    systems: tuple[str, ...] = Field(min_length=1)
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = (0,)
    folds: int | None = Field(default=None, ge=2)
    """Cross-validation, beside the seeds: each model so many times with the first seed, each without another part of
    the trajectories, and tested on it."""
    all: dict[str, Any] = Field(default_factory=dict)
    """What every variation has in common."""
    variations: dict[str, dict[str, Any]] = Field(min_length=1)
    threats: Threats = Threats()

    @model_validator(mode="after")
    def _names_are_no_fields(self) -> "Suite":
        for changes in (self.all, *self.variations.values()):
            if {"name", "system", "seed"} & changes.keys():
                raise ValueError("name, system and seed are given by the suite, not by a variation")
        return self

    def recipes(self) -> list[Recipe]:
        """One for each model."""
        return [
            Recipe.model_validate(
                {**self.all, **changes, "name": name_of(f"{system}-{variation}", seed), "system": system, "seed": seed}
            )
            for system in self.systems
            for variation, changes in self.variations.items()
            for seed in self.seeds
        ]


SUITES = PackagedTables(noun="suite of dynamics", kind=Suite, package="robustbench_bcos.regression", folder="suites")
