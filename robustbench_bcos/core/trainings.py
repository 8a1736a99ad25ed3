"""What a suite may have trained before it attacks: one recipe, variations of it, and seeds."""

from typing import Any

from pydantic import Field, field_validator

from robustbench_bcos.core.tables import Table


class Trainings(Table):
    """Every variation with every seed; ``train --suite`` makes the models, and ``run --suite`` attacks them."""

    recipe: str
    """What variations are variations of: a packaged recipe, or a file beside the suite."""
    seeds: tuple[int, ...] = Field(min_length=1)
    all: dict[str, Any] = Field(default_factory=dict)
    """Fields of the recipe that every variation has otherwise."""
    variations: dict[str, dict[str, Any]] = Field(min_length=1)
    """By name, the fields that it alone has otherwise; ``recipe`` among them is another to begin with."""

    @field_validator("seeds")
    @classmethod
    def _each_seed_once(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds) or min(seeds) < 0:
            raise ValueError("seeds must be numbers of at least 0, each once")
        return seeds

    @property
    def models(self) -> tuple[str, ...]:
        """What the models are called, seed by seed, so that a part of them is a part of each variation's."""
        return tuple(name_of(variation, seed) for seed in self.seeds for variation in self.variations)


def name_of(recipe: str, seed: int) -> str:
    """What the model is called that a recipe gives with one of several seeds."""
    return f"{recipe}-seed{seed}"
