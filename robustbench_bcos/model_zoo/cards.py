"""Cards: one TOML file of facts for each model. Reading cards does not import torch and runs nothing.

Packaged cards are in ``model_zoo/cards``; an installed package adds a folder of its own through the entry point group
``robustbench_bcos.cards`` (a package name), a user with ``--zoo DIR``.
"""

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, model_validator

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.framing import Framing, Interpolation
from robustbench_bcos.core.packages import find_package
from robustbench_bcos.core.registry import unknown
from robustbench_bcos.core.tables import Table, read_table
from robustbench_bcos.core.training_loss import TrainingLoss
from robustbench_bcos.model_zoo.cache import check_digest, weights_folder
from robustbench_bcos.model_zoo.digests import sha256_of
from robustbench_bcos.model_zoo.encoding_spec import EncodingSpec as EncodingSpec

Family = Literal["bcos", "conventional"]
Pools = Literal["kept", "averaged"]
WeightsFormat = Literal["safetensors", "state_dict", "lightning", "madry", "robustbench"]


WEIGHTS = {".bin", ".ckpt", ".pkl", ".pt", ".pth", ".safetensors", ".tar"}
"""How names of checkpoints end, which are no names of models."""

THREAT = r"^[a-z][a-z0-9_]* [0-9.]+(/[0-9]+)?$"
"""A norm and a radius: ``linf 8/255``."""


class TrainingSpec(Table):
    """Whether the weights were trained on clean or on attacked images, and for which norm and epsilon."""

    kind: Literal["natural", "adversarial", "unknown"] = "natural"
    norm: str | None = Field(default=None, pattern=r"^[a-z][a-z0-9_]*$")
    """Name of the norm. Which there are is known above the zoo, and asked when something is trained."""
    eps: str | None = None

    @model_validator(mode="after")
    def _a_ball_belongs_to_adversarial(self) -> "TrainingSpec":
        if (self.norm is not None, self.eps is not None) != (self.kind == "adversarial",) * 2:
            raise ValueError("norm and eps belong to kind 'adversarial', and both to it")
        return self

    def __str__(self) -> str:
        return self.kind if self.norm is None else f"adversarial {self.norm} {self.eps}"


class BcosifiedSpec(Table):
    """How a conventional architecture became a B-cos one: what else is needed to build it."""

    weights: Literal["raw"]
    """Filters keep the norm they were trained with; weights of layers that normalise theirs do not fit."""
    source: str = ""
    """The model that it was made from."""
    b: float = Field(default=2.0, ge=1)
    learn_b: Literal["no", "layer", "shared"] = "no"
    """Whether B is learned, from that on: not, for each layer, or once for all."""
    biases: bool = False
    """Whether biases were kept."""
    max_pools: Pools = "kept"
    """Whether pools of maxima became pools of means."""
    unpooled: bool = False
    """Whether the pool of attention of CLIP's ResNets was left out, so that there is a feature for each place."""
    logit_bias: float = 0.0
    """Added to all logits."""
    channels: int = Field(default=3, ge=1)
    """That the source's network takes."""
    image_layers: tuple[str, ...] = ()
    """Its layers that take the image; each takes the image's complement, too."""


class TextsSpec(Table):
    """Texts that images are compared with: the network gives a feature, and logits are cosines with those of texts."""

    encoder: str
    """Name of the encoder of texts, or ``clip:NAME`` for a text tower; their features are part of the weights."""
    width: int = Field(ge=1)
    """Numbers of a feature."""
    scale: float = Field(default=1.0, gt=0)
    """By which cosines are multiplied."""
    bias: float = 0.0
    """Added to all logits."""
    classes: tuple[str, ...]
    """What is put into templates, in the order of the outputs."""
    templates: tuple[str, ...] = ("a photo of a {}.",)
    held_out: tuple[str, ...] = ()
    """Those of the classes whose images were kept out of training."""

    @model_validator(mode="after")
    def _what_is_held_out_is_a_class(self) -> "TextsSpec":
        if strangers := sorted({*self.held_out} - {*self.classes}):
            raise ValueError(f"held_out names {strangers[0]!r}, which is none of the classes")
        if len(self.classes) - len(self.held_out) < 2:
            raise ValueError("held_out must leave at least two classes to train on")
        return self


class ModelSpec(Table):
    """What is needed to build a model and to attack it with its own loss."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    family: Family
    architecture: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    dataset: str
    classes: int = Field(ge=2)
    image_size: tuple[int, int]
    """Height and width in pixels."""
    resize: int | None = Field(default=None, ge=1)
    """Shorter side in pixels to which images of other sizes are resized; then their middle is cropped to
    ``image_size``."""
    interpolation: Interpolation = "bilinear"
    encoding: EncodingSpec
    loss: TrainingLoss
    training: TrainingSpec = TrainingSpec()
    bcosified: BcosifiedSpec | None = None
    """If the network was made from a conventional one of this architecture."""
    texts: TextsSpec | None = None
    """If its classes are texts."""

    @model_validator(mode="after")
    def _every_class_has_a_text(self) -> "ModelSpec":
        if self.texts is not None and len(self.texts.classes) != self.classes:
            raise ValueError(f"texts names {len(self.texts.classes)} classes, and there are {self.classes}")
        own = self.texts is not None and self.family == "bcos" and self.bcosified is None
        if own and self.arguments.get("logit_bias") != 0:
            raise ValueError("texts needs logit_bias = 0.0 among the arguments: a feature has no bias")
        return self

    @property
    def framing(self) -> Framing | None:
        """How images of other sizes are brought to ``image_size``, if the card says so."""
        if self.resize is None:
            return None
        return Framing(resize=self.resize, crop=self.image_size, interpolation=self.interpolation)


class WeightsSpec(Table):
    """A file next to the card, or one that is fetched into the cache, and its SHA-256."""

    file: str
    """Relative to the card's folder; a plain name where the file is fetched."""
    url: str | None = Field(default=None, pattern=r"^(https://[^/\s]+|http://(127\.0\.0\.1|localhost)(:[0-9]+)?)/\S+$")
    """Where to fetch it; unencrypted only from this machine."""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{8,64}$")
    """All 64 digits; for a file that is fetched, as many as are published."""
    size: int | None = Field(default=None, ge=1)
    """Bytes, if published."""
    format: WeightsFormat = "safetensors"
    ema: bool = False
    """Whether to take the moving average of the weights, which a Lightning checkpoint may have."""

    @model_validator(mode="after")
    def _what_is_not_fetched_is_known_in_full(self) -> "WeightsSpec":
        if self.url is None and (self.sha256 is None or len(self.sha256) != 64):
            raise ValueError("sha256 must have all 64 digits, unless there is a url to fetch the file from")
        if self.url is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.file):
            raise ValueError("file must be a plain name where there is a url: it is put into the cache")
        return self


class CleanAccuracy(Table):
    """Accuracy on clean test images, as counts."""

    correct: int = Field(ge=0)
    total: int = Field(gt=0)


class Published(Table):
    """Numbers published by the model's authors: percentages, and millions of parameters."""

    top1: float | None = Field(default=None, ge=0, le=100)
    top5: float | None = Field(default=None, ge=0, le=100)
    parameters: float | None = Field(default=None, gt=0)
    robust: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]* [0-9.]+(/[0-9]+)?$")], float] = Field(
        default_factory=dict
    )
    """Robust accuracies of attacks on the image by threat: ``"l2 0.5" = 70.11``."""


class Paper(Table):
    """Where a model was published, for lists of models such as RobustBench's."""

    title: str = ""
    authors: str = ""
    venue: str = ""
    link: str = ""
    additional_data: bool | None = None
    """Whether it was trained on more than the training images of its dataset."""


class Card(ModelSpec):
    """A trained model of the zoo."""

    recipe: str | None = None
    by_default: bool = True
    """Whether a run of its dataset attacks it where no model is named."""
    weights: WeightsSpec
    clean_accuracy: CleanAccuracy | None = None
    published: Published | None = None
    paper: Paper | None = None
    exponents: dict[str, Annotated[float, Field(ge=1)]] = Field(default_factory=dict)
    """B of each layer that learned it, where ``arguments`` has ``learn_b``; the weights hold it, too."""
    class_names: tuple[str, ...] | None = None
    """Names of the classes in the order of the outputs: class folders are numbered by them."""
    reference: str = ""
    """Paper or post the model comes from, with its published numbers."""
    licence: str

    @model_validator(mode="after")
    def _every_output_has_a_name_of_its_own(self) -> "Card":
        if self.class_names is not None and len({*self.class_names}) != self.classes:
            raise ValueError(f"class_names must be {self.classes} different names, one for each of the classes")
        return self


class Entry(NamedTuple):
    """A card and its folder."""

    card: Card
    folder: Path

    @property
    def weights_file(self) -> Path:
        """Path of the weights, which need not exist yet if the card has a ``url``.

        Raises:
            RequestError: the card points outside its folder.
        """
        if self.card.weights.url is not None:
            return weights_folder() / self.card.name / self.card.weights.file
        path = (self.folder / self.card.weights.file).resolve()
        if not path.is_relative_to(self.folder.resolve()):
            raise RequestError(
                f"card {self.card.name!r}: weights file {self.card.weights.file!r} lies outside the card's folder: "
                "move it there"
            )
        return path

    @property
    def is_here(self) -> bool:
        """Whether the weights need not be fetched."""
        return self.card.weights.url is None or self.weights_file.is_file()

    def check_fetched(self) -> None:
        """Refuse weights that have yet to be fetched.

        Raises:
            RequestError: with the command that does it.
        """
        if not self.is_here:
            raise RequestError(
                f"the weights of {self.card.name!r} are not here: `fetch {self.card.name}` gets them "
                f"from {self.card.weights.url}; without a connection, put that file at {self.weights_file}"
            )

    def check_weights(self) -> str:
        """The whole SHA-256 of the weights, which is the card's, or that of their first use.

        Raises:
            RequestError: they have not been fetched, or their digest differs.
        """
        weights, file = self.card.weights, self.weights_file
        self.check_fetched()
        if weights.url is not None:
            return check_digest(file, url=weights.url, published=weights.sha256)
        found = sha256_of(file)
        if found != weights.sha256:
            raise RequestError(f"weights {file} have SHA-256 {found}, expected {weights.sha256}: get the file again")
        return found


class Zoo:
    """Cards by name, from the package, from installed packages and from the user's folders.

    A user's card replaces an installed one of the same name: who retrains a packaged recipe wants the result.
    """

    def __init__(self, folders: Sequence[Path] = ()) -> None:
        self.entries = _collect(_installed_folders()) | _collect(folders)

    def __getitem__(self, name: str) -> Entry:
        if name not in self.entries:
            raise unknown("model", name, self.entries)
        return self.entries[name]

    def matching(self, pattern: str) -> list[Entry]:
        """Entries whose name equals the pattern or matches it as a glob, or those in a folder, in order of name.

        Raises:
            RequestError: none does.
        """
        if pattern not in self.entries and Path(pattern).is_dir():
            return _in_folder(Path(pattern))
        if pattern not in self.entries and Path(pattern).suffix in WEIGHTS:
            if not Path(pattern).is_file():
                raise RequestError(f"model {pattern} is neither known nor a file that is there: check the path")
            raise RequestError(
                f"model {pattern} is a file: --weights reads it with --architecture, and in Python load_model does"
            )
        if not any(character in pattern for character in "*?["):
            return [self[pattern]]
        found = [self.entries[name] for name in self.names(pattern)]
        if not found:
            raise unknown("model", pattern, self.entries)
        return found

    def names(self, pattern: str = "*") -> list[str]:
        """Names that match a glob, in order."""
        return [name for name in sorted(self.entries) if fnmatchcase(name, pattern)]

    def at_hand(self, dataset: str) -> list[str]:
        """Names of a dataset's models whose weights need not be fetched, in order, without those that must be named.

        Raises:
            RequestError: there are none.
        """
        cards = [self.entries[name].card for name in sorted(self.entries)]
        entries = [self.entries[card.name] for card in cards if card.dataset == dataset and card.by_default]
        if not entries:
            raise RequestError(f"the zoo has no models for --dataset {dataset}: name some with --model")
        here = [entry.card.name for entry in entries if entry.is_here]
        if not here:
            names = ", ".join(entry.card.name for entry in entries[:3])
            more = f" and {len(entries) - 3} more" if len(entries) > 3 else ""
            raise RequestError(
                f"the weights of no model for --dataset {dataset} are here: `fetch NAME` gets those of {names}{more}, "
                "or name others with --model"
            )
        return here


def _in_folder(folder: Path) -> list[Entry]:
    found = _collect([folder])
    if not found:
        raise RequestError(f"model {folder} is a folder without cards (*.toml): give one that has them, or a name")
    return [found[name] for name in sorted(found)]


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
        spec = find_package(entry.value)
        if spec is None or spec.submodule_search_locations is None:
            raise RequestError(
                f"entry point {entry.name!r} gives cards in {entry.value!r}, which is no package: remove it"
            )
        yield from map(Path, spec.submodule_search_locations)


def _read_cards(folder: Path) -> Iterable[Card]:
    if not folder.is_dir():
        raise RequestError(f"--zoo {folder} is not a folder: give the folder that holds card files (*.toml)")
    return (read_table(Card, file) for file in sorted(folder.glob("*.toml")))
