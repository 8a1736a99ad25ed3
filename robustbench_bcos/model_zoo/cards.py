"""What is known of a model: one TOML file each. Reading cards imports no torch and runs nothing.

Packaged cards lie in ``model_zoo/cards``; an installed package adds a folder of its own through the entry point group
``robustbench_bcos.cards`` (a package name), a user with ``--zoo DIR``.
"""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from importlib.metadata import entry_points
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field, model_validator

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.registry import unknown
from robustbench_bcos.core.tables import Table, read_table

Family = Literal["bcos", "conventional"]
TrainingLoss = Literal["bce", "bce_off_label", "ce"]
WeightsFormat = Literal["safetensors", "state_dict"]


class EncodingSpec(Table):
    """The encoding's name and, for ``normalize``, its constants in units of the pixel range."""

    kind: Literal["none", "add_inverse", "normalize"]
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None

    @model_validator(mode="after")
    def _constants_belong_to_normalize(self) -> "EncodingSpec":
        given = self.mean is not None and self.std is not None
        if given != (self.kind == "normalize") or (self.mean is None) != (self.std is None):
            raise ValueError("mean and std belong to kind 'normalize', and to it alone")
        return self

    @property
    def constants(self) -> dict[str, tuple[float, float, float]]:
        """Arguments of the encoding's class."""
        return {} if self.mean is None or self.std is None else {"mean": self.mean, "std": self.std}


class TrainingSpec(Table):
    """How the weights came about: on clean images, or on attacked ones inside a ball."""

    kind: Literal["natural", "adversarial"] = "natural"
    norm: Literal["l2", "linf"] | None = None
    eps: str | None = None

    @model_validator(mode="after")
    def _a_ball_belongs_to_adversarial(self) -> "TrainingSpec":
        if (self.norm is not None, self.eps is not None) != (self.kind == "adversarial",) * 2:
            raise ValueError("norm and eps belong to kind 'adversarial', and both to it")
        return self

    def __str__(self) -> str:
        return self.kind if self.norm is None else f"adversarial {self.norm} {self.eps}"


class ModelSpec(Table):
    """What has to be known to build a model and to attack it with its own loss."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    family: Family
    architecture: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    dataset: str
    classes: int = Field(ge=2)
    image_size: tuple[int, int]
    """Height and width in pixels."""
    resize: int | None = Field(default=None, ge=1)
    """Of images of other sizes: shorter side in pixels before the middle is cropped to ``image_size``."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """How they are resized."""
    encoding: EncodingSpec
    loss: TrainingLoss
    training: TrainingSpec = TrainingSpec()


class WeightsSpec(Table):
    """A file beside the card and the SHA-256 it must have."""

    file: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    format: WeightsFormat = "safetensors"


class CleanAccuracy(Table):
    """Accuracy on clean test images, as counts."""

    correct: int = Field(ge=0)
    total: int = Field(gt=0)


class Card(ModelSpec):
    """A trained model of the zoo."""

    recipe: str | None = None
    weights: WeightsSpec
    clean_accuracy: CleanAccuracy | None = None
    reference: str = ""
    """Paper or post the model comes from, with its published numbers."""
    licence: str


class Entry(NamedTuple):
    """A card and where it lies."""

    card: Card
    folder: Path

    @property
    def weights_file(self) -> Path:
        """Path of the weights.

        Raises:
            RequestError: the card points outside its folder.
        """
        path = (self.folder / self.card.weights.file).resolve()
        if not path.is_relative_to(self.folder.resolve()):
            raise RequestError(
                f"card {self.card.name!r}: weights file {self.card.weights.file!r} lies outside the card's folder: "
                "move it there"
            )
        return path


class Zoo:
    """Cards by name, from the package, from installed packages and from the user's folders.

    A user's card takes the place of an installed one of its name: whoever retrains a packaged recipe means the result.
    """

    def __init__(self, folders: Sequence[Path] = ()) -> None:
        self.entries = _collect(_installed_folders()) | _collect(folders)

    def __getitem__(self, name: str) -> Entry:
        if name not in self.entries:
            raise unknown("model", name, self.entries)
        return self.entries[name]

    def matching(self, pattern: str) -> list[Entry]:
        """Entries whose name equals the pattern or matches it as a glob, in order of name.

        Raises:
            RequestError: none does.
        """
        if not any(character in pattern for character in "*?["):
            return [self[pattern]]
        found = [self.entries[name] for name in sorted(self.entries) if fnmatchcase(name, pattern)]
        if not found:
            raise unknown("model", pattern, self.entries)
        return found


def _collect(folders: Iterable[Path]) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    for folder in folders:
        for card in _read_cards(folder):
            if card.name in entries:
                raise RequestError(
                    f"card {card.name!r} is in {entries[card.name].folder} and in {folder}: rename one of them"
                )
            entries[card.name] = Entry(card, folder)
    return entries


def _installed_folders() -> Iterable[Path]:
    yield Path(str(files("robustbench_bcos.model_zoo"))) / "cards"
    for entry in entry_points(group="robustbench_bcos.cards"):
        # The folder may be a package or hold nothing but cards, and is found without importing it.
        spec = find_spec(entry.value)
        if spec is None or spec.submodule_search_locations is None:
            raise RequestError(
                f"entry point {entry.name!r} gives cards in {entry.value!r}, which is no package: remove it"
            )
        yield from map(Path, spec.submodule_search_locations)


def _read_cards(folder: Path) -> Iterable[Card]:
    if not folder.is_dir():
        raise RequestError(f"--zoo {folder} is not a folder: give the folder that holds card files (*.toml)")
    return (read_table(Card, file) for file in sorted(folder.glob("*.toml")))
