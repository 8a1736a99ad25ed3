"""The identity of a run: everything that its numbers depend on."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, get_type_hints

from pydantic import TypeAdapter

from robustbench_bcos.bench.cells import Cell
from robustbench_bcos.core.plugins import require_plugins


@dataclass(frozen=True, kw_only=True)
class ExplainedImages:
    """Which images are explained, and how."""

    method: str
    """As it was asked for."""
    images: tuple[int, ...]
    """Indices of the images that the means of ``results.csv`` are over."""
    pictured: tuple[int, ...]
    """Indices of the images that pictures were asked for."""

    @property
    def all(self) -> set[int]:
        """All images that are explained."""
        return {*self.images, *self.pictured}


@dataclass(frozen=True, kw_only=True)
class AttackedMaps:
    """Whose explanations are attacked while the prediction stays, and towards what."""

    goals: tuple[str, ...]
    methods: tuple[str, ...]
    """As they were asked for."""
    band: float | None
    """By how much the confidence may change."""
    images: tuple[int, ...]
    """Indices of the images."""


@dataclass(frozen=True, kw_only=True)
class SmoothedNetworks:
    """What is certified of the models under noise, and how."""

    certificates: tuple[str, ...]
    sigmas: tuple[float, ...]
    draws: int
    alpha: float
    method: str
    """Of explanation, as it was asked for."""
    shape: tuple[int, ...]
    """Of an image."""


@dataclass(frozen=True, kw_only=True)
class RunIdentity:
    """All that decides a run's numbers: batch size and number of threads do not. Another identity is another run."""

    cells: tuple[Cell, ...]
    weights: Mapping[str, str]
    """SHA-256 of each model's weights."""
    dataset: str
    images: int
    """Number of images of the evaluation subset."""
    subset: str
    """Digest of these images, as they are attacked."""
    preprocessing: str
    """What was done to them before."""
    seed: int
    device: str
    """Its kind: ``cpu`` or ``cuda``."""
    explained: ExplainedImages | None
    evidence: str
    """``quick``, ``full`` or ``off``."""
    distances: bool
    """Whether the smallest epsilon is searched for."""
    independent_cells: bool
    """Whether images are attacked again that the same attack broke within a smaller epsilon."""
    attack_backend: tuple[bool | str, ...]
    """How the copies of networks that attacks use are made fast: compiled or not, memory format, precision."""
    classes: int
    """Number of classes of the dataset."""
    version: str
    torch: str
    plugins: Mapping[str, str]
    """SHA-256 of each plug-in, by its name."""
    save_adversarials: bool = False
    """Whether the adversarial example of every image is kept."""
    eot: int = 1
    """Draws that answers of random models average."""
    reading: Mapping[str, Any] | None = None
    """What was stated of a weights file: one file may be several models."""
    adversarial: bool | None = None
    """Whether the images were made to be misclassified; ``None`` where they were not."""
    maps: AttackedMaps | None = None
    """Attacks on explanations; ``None`` where only predictions are attacked."""
    smoothed: SmoothedNetworks | None = None
    """Certificates of smoothed networks; ``None`` where none were asked for."""

    def to_json(self) -> dict[str, Any]:
        """As ``run.json`` keeps it, in lists and dictionaries alone."""
        values = {declared.name: getattr(self, declared.name) for declared in fields(self)}
        for name in ("explained", "maps", "smoothed"):
            if values[name] is not None:
                values[name] = {key: _plain(value) for key, value in asdict(values[name]).items()}
        values["cells"] = [cell.as_dict() for cell in self.cells]
        # Optional parts are left out of run.json where they are None, so that identities of older runs stay equal.
        few = {"reading", "adversarial", "maps", "smoothed"}
        return {key: _plain(value) for key, value in values.items() if key not in few or value is not None}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "RunIdentity":
        """The inverse of :meth:`to_json`.

        Raises:
            ValueError: the values are not an identity of this version.
            RequestError: a plug-in that the run was made with has not been loaded.
        """
        try:
            require_plugins(TypeAdapter(dict[str, str]).validate_python(values["plugins"]))
            hints = {name: hint for name, hint in get_type_hints(cls).items() if name != "cells"}
            checked = {name: TypeAdapter(hint).validate_python(values.get(name)) for name, hint in hints.items()}
            if surplus := values.keys() - checked.keys() - {"cells"}:
                raise ValueError(f"{min(surplus)} is not known")
            return cls(cells=tuple(map(Cell.from_dict, values["cells"])), **checked)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"the identity of its run is not one of this version: {error}") from None


def _plain(value: Any) -> Any:  # noqa: ANN401 (any value of JSON)
    return list(value) if isinstance(value, tuple) else value
