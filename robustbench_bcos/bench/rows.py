"""Rows of the store. A class is the one declaration of its table: the schema, reading and writing derive from it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache, cached_property
from types import NoneType
from typing import Any, ClassVar, TypeVar, get_args, get_type_hints

from robustbench_bcos.bench.pictures import Picture
from robustbench_bcos.explanations.similarity import MEASURES

R = TypeVar("R", bound="Row")

SPREAD = "columns"
"""Metadata of a mapping that has a column for each of these names, instead of one of its own."""

COMPARISONS = ("attack", "noise", "other")
"""What a clean image's map is compared with."""

EXPLAINED_CLASSES = ("true", "predicted")
"""Whose maps are compared: those of the label, or on each side those of the class predicted there."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a table. Each column is a field of the class, found by name and never by position."""

    table: ClassVar[str]
    key: ClassVar[tuple[str, ...]]
    """Columns of the primary key, by which rows are ordered. A table without one keeps every row it is given."""

    blocks_of: ClassVar[str]
    """Column that names what the row is of, such as its cell; by default the first of the key."""

    def __init_subclass__(cls, *, table: str, key: tuple[str, ...] = (), blocks_of: str = "") -> None:
        cls.table, cls.key = table, key
        if blocks_of or key:
            cls.blocks_of = blocks_of or key[0]

    @classmethod
    @cache
    def columns(cls) -> dict[str, type]:
        """The type of what each column holds, where it holds something."""
        hints = get_type_hints(cls)
        return {
            name: _content(hints[declared.name])
            for declared in fields(cls)
            for name in declared.metadata.get(SPREAD, [declared.name])
        }

    def to_columns(self) -> dict[str, Any]:
        """What is written, by column."""
        values = {declared.name: getattr(self, declared.name) for declared in fields(self)}
        for name in self._spread():
            values |= values.pop(name)
        return values

    @classmethod
    def read(cls: type[R], columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[R]:
        """The inverse of :meth:`to_columns`, row by row; SQLite has no truth values, and gives 0 and 1."""
        truths, spread = cls._truths(), cls._spread()
        for values in rows:
            # Not by the constructor, which sets the fields of a frozen record one by one: a report has millions.
            row = object.__new__(cls)
            known = vars(row)
            known.update(zip(columns, values, strict=True))
            for name in truths:
                if known[name] is not None:
                    known[name] = known[name] != 0
            for name, several in spread.items():
                known[name] = {column: known.pop(column) for column in several}
            yield row

    @classmethod
    @cache
    def _truths(cls) -> list[str]:
        return [name for name, kind in cls.columns().items() if kind is bool]

    @classmethod
    @cache
    def _spread(cls) -> dict[str, tuple[str, ...]]:
        """The columns of each field that has several."""
        return {declared.name: declared.metadata[SPREAD] for declared in fields(cls) if SPREAD in declared.metadata}


@dataclass(frozen=True, kw_only=True)
class ModelRow(Row, table="models", key=("name",)):
    """A model of the run."""

    name: str
    """As it is called in every other table."""
    family: str
    """``bcos``, ``conventional``, or ``unknown``."""
    architecture: str
    """Name of its architecture, or the class of one's own."""
    parameters: int
    """Number of its parameters."""
    training: str
    """What it was trained on, in words."""
    loss: str
    """What ``--loss auto`` means for it."""
    weights_sha256: str
    """Digest of its weights."""
    b: float | None
    """Exponent of its B-cos layers; empty for conventional networks."""
    explanation: str
    """How it is explained; empty where nothing is."""
    encoding: str = ""
    """The first thing it does to an image; empty where that is not known."""
    attack_backend: str = ""
    """How the copy of the network that attacks use was made fast."""
    assumed: str = ""
    """What neither its weights nor the request say of it: ``b=2 norm=batch-uncentred encoding=add_inverse``."""
    uncertified: str = ""
    """With ``--distances``: why nothing can be proved of it; empty where something can."""
    draws: int = 1
    """Draws that each answer averages, of a model that is random by design."""
    texts: str = ""
    """Of a model that compares images with texts: how many they are, and a digest of all."""


@dataclass(frozen=True, kw_only=True)
class CleanRow(Row, table="clean", key=("model", "image")):
    """A prediction without an attack."""

    model: str
    """Name of the model."""
    image: int
    """Index in the dataset."""
    label: int
    """Its class."""
    prediction: int
    """The class predicted; -1 where a logit is not finite."""
    correct: bool
    """Whether the model is right."""


@dataclass(frozen=True, kw_only=True)
class VerdictRow(Row, table="verdicts", key=("cell", "image")):
    """What an attack did to one image, as the judge found it."""

    cell: str
    """Key of the cell."""
    image: int
    """Index in the dataset."""
    attacked: bool
    """Whether the image was worth an attack: the model is right about it, and the criterion is not met already."""
    success: bool
    """Whether the judge found that the attack met the criterion."""
    prediction: int
    """The class predicted for the adversarial example; -1 where a logit is not finite."""
    size: float
    """Norm of the perturbation, to 6 significant digits: the last may be float noise of the batch it was in, and more
    would be."""
    degenerate_gradient: bool
    """Whether some gradient of the attack was 0 everywhere, NaN or infinite."""
    forward_passes: int
    """Forward passes that the attack spent on the image."""
    backward_passes: int
    """Backward passes that the attack spent on the image."""
    nearness: float | None = None
    """How near the image is to success, to 3 significant digits: the margin where any wrong class will do. Empty where
    it is not finite."""
    eight_bit: bool | None = None
    """Whether the attack still succeeds when pixels are rounded to k/255; empty where it does not succeed."""
    rounded: bool = False
    """Whether the attack succeeds only where its last image is rounded to k/255, towards the image it began with."""
    inherited: bool = False
    """Whether the adversarial example is that of a smaller epsilon or of fewer steps, and nothing was attacked here."""


@dataclass(frozen=True, kw_only=True)
class AdversarialRow(Row, table="adversarials", key=("cell", "image")):
    """An adversarial example that is kept: to be saved, explained, or tried on other models."""

    cell: str
    """Key of the cell."""
    image: int
    """Index in the dataset."""
    pixels: bytes
    """Float32, little-endian, channel by channel."""
    transferred: bool = True
    """Whether it is tried on other models."""
    rounded: bytes | None = None
    """With ``--save-adversarials``: a picture near it that succeeds, too, within the threat, as a byte for each pixel
    value, channel by channel. Empty where none was found."""
    rounded_prediction: int | None = None
    """The class predicted for that picture; -1 where a logit is not finite."""


@dataclass(frozen=True, kw_only=True)
class EvidenceRow(Row, table="evidence", key=("subject", "check")):
    """A check that has been carried out, or skipped."""

    subject: str
    """Key of the cell, or name of the model."""
    check: str
    """Name of the check."""
    skipped_because: str
    """Why it could not be carried out; empty where it was."""
    finding: str = ""
    """What it found that results by image do not say, in words; empty where they say everything."""


@dataclass(frozen=True, kw_only=True)
class ResultRow(Row, table="results", key=("subject", "check", "image")):
    """The result of a check for one image."""

    subject: str
    """Key of the cell, or name of the model."""
    check: str
    """Name of the check."""
    image: int
    """Index in the dataset."""
    part: str
    """Why it was examined: ``screened``, ``nearest``, ``sample`` or ``called``; see [evidence.md](evidence.md)."""
    broken: bool
    """Whether the check found an adversarial example within the cell's threat."""
    against: bool
    """Whether this image speaks against the number."""
    value: float | None
    """What was measured, to 6 significant digits; empty where there is no such thing."""
    passes: int
    """Forward and backward passes spent on the image."""


@dataclass(frozen=True, kw_only=True)
class TransferRow(Row, table="transfers", key=("cell", "source", "image")):
    """Whether an adversarial example of another model succeeds."""

    cell: str
    """Key of the cell whose model it is tried on."""
    source: str
    """The model it was made on."""
    image: int
    """Index in the dataset."""
    broken: bool
    """Whether it succeeds."""


@dataclass(frozen=True, kw_only=True)
class DistanceRow(Row, table="distances", key=("model", "norm", "image")):
    """Bounds of the smallest epsilon within which an attack succeeds."""

    model: str
    """Name of the model."""
    norm: str
    """Name of the norm."""
    image: int
    """Index in the dataset."""
    low: float
    """An epsilon within which no attack succeeded; 0 where the image was misclassified without one."""
    high: float | None
    """Size of the smallest perturbation that was found to succeed; empty where none was."""
    certified: float | None = None
    """Proved: no smaller perturbation changes the prediction; see [certificates.md](certificates.md). 0 where nothing
    was proved; empty where the image was misclassified without one, or the network cannot be bounded."""
    passes: int
    """Forward and backward passes spent on the image."""


@dataclass(frozen=True, kw_only=True)
class SmoothedRow(Row, table="smoothed", key=("model", "certificate", "sigma", "image", "part")):
    """What is certified of the *smoothed* network for one image; it bounds nothing of the network itself."""

    model: str
    """Name of the model that is smoothed."""
    certificate: str
    """Name of the certificate."""
    sigma: float
    """Deviation of the noise, in units of the pixel range."""
    image: int
    """Index in the dataset."""
    part: int
    """Of the statement, from 1: that of a class has one, and that of K contributions has K."""
    smoothed_prediction: int | None
    """The class that the smoothed classifier predicts, -1 where it abstains; empty where it is not about classes."""
    smoothed_radius: float | None
    """In l2: no smaller perturbation changes this of the smoothed network; empty where nothing is certified."""


@dataclass(frozen=True, kw_only=True)
class SimilarityRow(Row, table="similarities", key=("cell", "image", "comparison", "explained_class")):
    """How similar an image's contribution map is to another, in one comparison for one class."""

    cell: str
    """Key of the cell."""
    image: int
    """Index in the dataset."""
    comparison: str
    """``attack``, ``noise`` of the same size, or ``other``: another image of the class."""
    explained_class: str
    """``true``: the label on both sides; ``predicted``: what is predicted on each side."""
    changed: bool
    """Whether the prediction differs from that of the clean image."""
    values: Mapping[str, float | None] = field(metadata={SPREAD: tuple(MEASURES)})
    """The measure of that name, to 4 significant digits: more would be float noise of the batch. Empty where it is not
    defined."""


@dataclass(frozen=True, kw_only=True)
class FooledRow(Row, table="fooled", key=("cell", "method", "goal", "image", "comparison")):
    """How similar the map of a class is to that of the clean image, for an image whose explanation was attacked."""

    cell: str
    """Key of the cell whose threat and attack it is."""
    method: str
    """Method of explanation."""
    goal: str
    """Where the attack moved the map; see [fooled-maps.md](fooled-maps.md)."""
    image: int
    """Index in the dataset."""
    comparison: str
    """``explanation``: the attack on the explanation; ``prediction``: the cell's own attack; ``noise`` of the same
    size; ``other``: another image of the class. As evidence, ``longer``: four times the steps; ``elsewhere``: another
    goal."""
    attacked: bool
    """Whether the model is right about the image; of others no explanation is attacked."""
    kept: bool
    """Whether the prediction is that of the clean image, for attacks on explanations in 256 levels, too. An attack on
    the explanation that finds no such picture leaves the image as it is."""
    size: float
    """Norm of the perturbation, to 6 significant digits, of which the last may be float noise of the batch it was
    in."""
    left: float | None
    """What is left of the way to the goal, from 0 to 1; empty for controls."""
    degenerate_gradient: bool
    """Whether some gradient of the search was 0 everywhere, NaN or infinite."""
    passes: int
    """Forward and backward passes that the search spent; those of a map count once."""
    derivatives: str
    """Second derivatives that it followed: ``own``, or those of ``softplus`` in place of rectifiers; ``none`` where
    they are 0, ``wrong`` where they are not the slopes of the maps."""
    energy: float | None = None
    """Share of the map's positive evidence that is on the object of the class, as the mask of that image says; empty
    without a mask, or without positive evidence."""
    energy_clean: float | None = None
    """The same of the clean image's map."""
    values: Mapping[str, float | None] = field(metadata={SPREAD: tuple(MEASURES)})
    """The measure of that name, to 4 significant digits: more would be float noise of the batch. Empty where it is not
    defined."""


class Pictured:
    """A row that holds an image to be looked at."""

    image: int
    label: int | None
    views: bytes

    @cached_property
    def picture(self) -> Picture:
        """The picture.

        Raises:
            ValueError: its bytes are damaged.
        """
        return Picture.from_bytes(self.image, self.label, self.views)


@dataclass(frozen=True, kw_only=True)
class PictureRow(Pictured, Row, table="pictures", key=("cell", "image")):
    """An image to be looked at: clean, attacked, and the explanations of both."""

    cell: str
    """Key of the cell."""
    image: int
    """Index in the dataset."""
    label: int | None
    """Its class; empty where it is not known."""
    broken: bool
    """Whether it was classified correctly without the attack and is not under it."""
    views: bytes
    """Pixels, explanations, predictions and confidences, as a compressed NumPy archive."""

    @classmethod
    def of(cls, cell: str, picture: Picture, *, broken: bool) -> "PictureRow":
        """A picture of a cell."""
        return cls(cell=cell, image=picture.image, label=picture.label, broken=broken, views=picture.to_bytes())


@dataclass(frozen=True, kw_only=True)
class FooledPictureRow(Pictured, Row, table="fooled_pictures", key=("cell", "method", "goal", "image")):
    """An image to be looked at whose explanation was attacked, if a picture with the same prediction was found."""

    cell: str
    """Key of the cell."""
    method: str
    """Method of explanation."""
    goal: str
    """Where the attack moved the map."""
    image: int
    """Index in the dataset."""
    label: int | None
    """Its class; empty where it is not known."""
    views: bytes
    """As of ``pictures``: clean, and with the explanation attacked."""
    levels: bytes
    """The attacked picture as a file holds it: a byte for each pixel value, channel by channel."""


@dataclass(frozen=True, kw_only=True)
class UnfinishedRow(Row, table="unfinished", key=("cell", "work", "piece")):
    """A piece of what a long attack needs to go on where it stopped; without bytes once it is done."""

    cell: str
    """Key of the cell."""
    work: str
    """``attack`` or ``explanation``."""
    piece: int
    """Its number: what is larger than a database takes at once is cut."""
    pieces: int
    """How many there are."""
    images: str
    """Indices of the images that are attacked together."""
    batch_size: int
    """Images that the network is shown at a time: a batch of another size would give other last bits."""
    state: bytes
    """Tensors by name, as safetensors."""


@dataclass(frozen=True, kw_only=True)
class TimingRow(Row, table="timings", blocks_of="cell"):
    """How long a batch took."""

    cell: str
    """Key of the cell."""
    work: str
    """``attack``, ``explanation``, ``evidence``, ``distances``, ``fooling`` or ``smoothing``."""
    images: int
    """Images in the batch; 0 where several cells share it."""
    seconds: float
    """Wall-clock time."""


@dataclass(frozen=True, kw_only=True)
class DigestRow(Row, table="digests", key=("of", "subject", "part")):
    """What the rows of a block were when they were written, so that damage is noticed when they are read."""

    of: str
    """Name of the table."""
    subject: str
    """What the rows are of."""
    part: int
    """Number of the block among the subject's, by image; 0 where there are no images."""
    rows: int
    """How many there are."""
    digest: str
    """BLAKE2b of subject, part and rows."""


def tables() -> tuple[type[Row], ...]:
    """All tables of a run's store."""
    return tuple(row for row in Row.__subclasses__() if row.__module__ == __name__)


def _content(hint: Any) -> type:  # noqa: ANN401 (an annotation)
    """The type of a column: of ``float | None`` and of ``Mapping[str, float]`` it is ``float``."""
    kinds: list[type] = [kind for kind in get_args(hint) if kind is not NoneType]
    return _content(kinds[-1]) if kinds else hint
