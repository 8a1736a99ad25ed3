"""Everything one run measured: a row per model, cell and image, written batch by batch.

A batch is one transaction, so that a killed run loses at most the batch it was in. Threads may share a store.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import Any, NamedTuple

from robustbench_bcos.bench.cells import Cell
from robustbench_bcos.bench.folder import CONFIGURATION
from robustbench_bcos.bench.pictures import Picture
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.explanations.similarity import MEASURES

LAYOUT = 5
"""Version of the tables, recorded in the file: another version's would be read wrongly."""

# The version first: whoever is killed between two statements leaves what the next session completes.
SCHEMA = f"""
PRAGMA user_version = {LAYOUT};
CREATE TABLE IF NOT EXISTS models (
    name TEXT PRIMARY KEY, family TEXT, architecture TEXT, parameters INTEGER, training TEXT, loss TEXT,
    weights_sha256 TEXT, b REAL, explanation TEXT, encoding TEXT, search TEXT
);
CREATE TABLE IF NOT EXISTS clean (
    model TEXT, image INTEGER, label INTEGER, prediction INTEGER, PRIMARY KEY (model, image)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS verdicts (
    cell TEXT, image INTEGER, attacked INTEGER, prediction INTEGER, size REAL, degenerate_gradient INTEGER,
    forward_passes INTEGER, backward_passes INTEGER, margin REAL, eight_bit INTEGER, carried INTEGER,
    PRIMARY KEY (cell, image)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS candidates (cell TEXT, image INTEGER, pixels BLOB, PRIMARY KEY (cell, image)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS examinations (
    subject TEXT, "check" TEXT, undone TEXT, PRIMARY KEY (subject, "check")
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS findings (
    subject TEXT, "check" TEXT, image INTEGER, part TEXT, fell INTEGER, against INTEGER, value REAL, passes INTEGER,
    PRIMARY KEY (subject, "check", image)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS transfers (
    cell TEXT, source TEXT, image INTEGER, fell INTEGER, PRIMARY KEY (cell, source, image)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS distances (
    model TEXT, norm TEXT, image INTEGER, low REAL, high REAL, passes INTEGER, PRIMARY KEY (model, norm, image)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS timings (cell TEXT, work TEXT, images INTEGER, seconds REAL);
CREATE TABLE IF NOT EXISTS shifts (
    cell TEXT, image INTEGER, comparison TEXT, explained_class TEXT, changed INTEGER,
    {", ".join(f"{measure} REAL" for measure in MEASURES)},
    PRIMARY KEY (cell, image, comparison, explained_class)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS pictures (
    cell TEXT, image INTEGER, label INTEGER, fell INTEGER, views BLOB, PRIMARY KEY (cell, image)
);
"""


class CleanRow(NamedTuple):
    """What a model says of an image nobody attacked."""

    model: str
    image: int
    label: int
    prediction: int


class VerdictRow(NamedTuple):
    """What became of one image in one cell."""

    cell: str
    image: int
    attacked: bool
    """Whether it was classified correctly before; others are not attacked and are not robust."""
    prediction: int
    size: float
    """Norm of the candidate's delta, to 6 significant digits: more would be float noise of the batch it was in."""
    degenerate_gradient: bool
    forward_passes: int
    backward_passes: int
    margin: float | None = None
    """Of the candidate, best wrong logit minus true logit, to 3 significant digits; ``None`` where it is not finite."""
    eight_bit: bool | None = None
    """Whether the candidate fools still when its pixels are rounded to k/255; ``None`` where it does not fool."""
    carried: bool = False
    """Whether the candidate is that of a smaller radius or of fewer steps, and nothing was attacked here."""


class ExaminationRow(NamedTuple):
    """A check that has been carried out on a cell, or on a model."""

    subject: str
    check: str
    undone: str
    """Why it could not be carried out; empty where it was."""


class FindingRow(NamedTuple):
    """What a check found for one image."""

    subject: str
    check: str
    image: int
    part: str
    """Why it was examined: see :mod:`robustbench_bcos.bench.evidence.selection`."""
    fell: bool
    """Whether the check has a candidate within the cell's threat that fools the model."""
    against: bool
    """Whether this image speaks against the number."""
    value: float | None
    """What was measured, where there is such a thing, to 6 significant digits."""
    passes: int
    """Forward and backward passes spent on it."""


class TransferRow(NamedTuple):
    """What became of a candidate made on another model."""

    cell: str
    source: str
    """The model it was made on."""
    image: int
    fell: bool


class DistanceRow(NamedTuple):
    """Between which two radii an image falls."""

    model: str
    norm: str
    image: int
    low: float
    """A radius within which it was not fooled; 0 where it was misclassified when clean."""
    high: float | None
    """Size of the smallest delta that was found to fool; ``None`` where none was."""
    passes: int
    """Forward and backward passes spent."""


class SimilarityRow(NamedTuple):
    """How far an image's contribution map moved, in one comparison for one class."""

    cell: str
    image: int
    comparison: str
    """``attack``, ``noise`` of the same size, or ``other``: another image of the class."""
    explained_class: str
    """``true``: the label on both sides; ``predicted``: what is predicted on each side."""
    changed: bool
    """Whether the prediction differs from that of the clean image."""
    values: tuple[float | None, ...]
    """One per measure, in their order; ``None`` where the measure is not defined."""


class PictureRow(NamedTuple):
    """An image to be looked at."""

    cell: str
    picture: Picture
    fell: bool


class ModelRow(NamedTuple):
    """What a row of results says of its model."""

    name: str
    family: str
    architecture: str
    parameters: int
    training: str
    loss: str
    weights_sha256: str
    b: float | None
    """Exponent of its B-cos layers; ``None`` for conventional networks."""
    explanation: str
    """How it is explained; empty where nothing is."""
    encoding: str = ""
    """The first thing it does to an image, where that is known."""
    search: str = ""
    """How the network was made fast that its attacks walked on."""


@dataclass(frozen=True, slots=True)
class CellSums:
    """Counts and sums over the images of a cell."""

    images: int
    clean_correct: int
    robust_correct: int
    fallen: int
    fallen_size: float
    degenerate_gradient: int
    forward_passes: int
    backward_passes: int
    carried: int


class Store:
    """The database of a run, or one in memory.

    Raises:
        RequestError: the file is damaged, the disk is full, or another version of this package wrote it.
    """

    def __init__(self, file: Path | None = None) -> None:
        self.file = file
        self._lock = RLock()
        with self._explained():
            # Whichever thread has the lock has the database to itself.
            place = ":memory:" if file is None else file
            self._database = sqlite3.connect(place, isolation_level=None, check_same_thread=False)
            if self._layout() not in (0, LAYOUT):
                raise RequestError(
                    f"{self.file} was written by another version of robustbench_bcos: read it with that version "
                    f"({CONFIGURATION} names it), or repeat the run"
                )
            self._database.executescript(SCHEMA)

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def add_model(self, row: ModelRow) -> None:
        """Record a model, once."""
        with self._transaction():
            self._insert("models", [row])

    def add_clean(self, rows: Iterable[CleanRow]) -> None:
        """Record a batch of clean predictions."""
        with self._transaction():
            self._insert("clean", rows)

    def add_verdicts(
        self, rows: Sequence[VerdictRow], seconds: float, candidates: Mapping[int, bytes] | None = None
    ) -> None:
        """Record a batch of a cell, how long it took, and pixels of candidates that are to be tried on other models."""
        with self._transaction():
            self._insert("verdicts", rows)
            self._insert("candidates", [(rows[0].cell, image, pixels) for image, pixels in (candidates or {}).items()])
            self._insert("timings", [(rows[0].cell, "attack", len(rows), seconds)])

    def add_similarities(self, shifts: Sequence[SimilarityRow], pictures: Iterable[PictureRow], seconds: float) -> None:
        """Record a batch of explanations of a cell and how long it took."""
        with self._transaction():
            self._insert("shifts", [(*row[:-1], *row.values) for row in shifts])
            self._insert(
                "pictures",
                [
                    (row.cell, row.picture.image, row.picture.label, row.fell, row.picture.to_bytes())
                    for row in pictures
                ],
            )
            images = len({row.image for row in shifts})
            self._insert("timings", [(shifts[0].cell, "explanation", images, seconds)])

    def add_examination(
        self, row: ExaminationRow, findings: Iterable[FindingRow], cells: Sequence[Cell], seconds: float
    ) -> None:
        """Record a check, what it found, and that it took these cells so long together."""
        with self._transaction():
            self._insert("examinations", [row])
            self._insert("findings", findings)
            self._insert("timings", [(cell.key, "evidence", 0, seconds / len(cells)) for cell in cells])

    def add_transfers(self, rows: Iterable[TransferRow]) -> None:
        """Record what became of candidates made on other models."""
        with self._transaction():
            self._insert("transfers", rows)

    def add_distances(self, rows: Iterable[DistanceRow], cell: Cell, seconds: float) -> None:
        """Record a batch of distances, and that they took so long, for a cell of the model and norm."""
        with self._transaction():
            self._insert("distances", rows)
            self._insert("timings", [(cell.key, "distances", 0, seconds)])

    def distances(self, model: str, norm: str) -> dict[int, DistanceRow]:
        """Distances of a model's images, by image, as far as they are known."""
        rows = self._select("SELECT * FROM distances WHERE model = ? AND norm = ? ORDER BY image", model, norm)
        return {row[2]: DistanceRow(*row) for row in rows}

    def examinations(self, subject: str) -> dict[str, ExaminationRow]:
        """Checks that have been carried out on a subject, by name."""
        rows = self._select("SELECT * FROM examinations WHERE subject = ?", subject)
        return {row[1]: ExaminationRow(*row) for row in rows}

    def findings(self, subject: str) -> list[FindingRow]:
        """What has been found of a subject, by check and image."""
        rows = self._select('SELECT * FROM findings WHERE subject = ? ORDER BY "check", image', subject)
        return [FindingRow(*row) for row in rows]

    def transfers(self, cell: Cell) -> list[TransferRow]:
        """What became of candidates made on other models, by source and image."""
        rows = self._select("SELECT * FROM transfers WHERE cell = ? ORDER BY source, image", cell.key)
        return [TransferRow(*row) for row in rows]

    def candidates(self, cell: Cell) -> dict[int, bytes]:
        """Pixels of the candidates that were kept, by image."""
        return dict(self._select("SELECT image, pixels FROM candidates WHERE cell = ? ORDER BY image", cell.key))

    def verdicts(self, cell: Cell) -> list[VerdictRow]:
        """All verdicts of a cell, by image."""
        return [
            VerdictRow(*row) for row in self._select("SELECT * FROM verdicts WHERE cell = ? ORDER BY image", cell.key)
        ]

    def withstood(self, cell: Cell) -> list[int]:
        """Images that an attack did not fool, those it came nearest to fooling first."""
        rows = self._select(
            "SELECT v.image FROM verdicts v JOIN clean c ON c.model = ? AND c.image = v.image "
            "WHERE v.cell = ? AND v.attacked AND v.prediction = c.label ORDER BY v.margin DESC, v.image",
            cell.model,
            cell.key,
        )
        return [image for (image,) in rows]

    def clean(self, model: str) -> dict[int, CleanRow]:
        """Clean predictions by image, as far as they are known."""
        return {row[1]: CleanRow(*row) for row in self._select("SELECT * FROM clean WHERE model = ?", model)}

    def model(self, name: str) -> ModelRow:
        """The recorded model of that name."""
        return ModelRow(*self._select("SELECT * FROM models WHERE name = ?", name)[0])

    def done(self, cell: Cell) -> set[int]:
        """Images of a cell that have a verdict."""
        return {image for (image,) in self._select("SELECT image FROM verdicts WHERE cell = ?", cell.key)}

    def explained(self, cell: Cell) -> set[int]:
        """Images of a cell whose maps have been compared."""
        return {image for (image,) in self._select("SELECT DISTINCT image FROM shifts WHERE cell = ?", cell.key)}

    def shifts(self, cell: Cell) -> list[SimilarityRow]:
        """All comparisons of a cell, in the order of images."""
        rows = self._select("SELECT * FROM shifts WHERE cell = ? ORDER BY image, comparison, explained_class", cell.key)
        return [
            SimilarityRow(cell.key, image, comparison, explained_class, bool(changed), tuple(values))
            for _, image, comparison, explained_class, changed, *values in rows
        ]

    def pictures(self, cell: Cell) -> list[PictureRow]:
        """Images of a cell to be looked at, in the order of images.

        Raises:
            RequestError: one is damaged.
        """
        rows = self._select("SELECT image, label, fell, views FROM pictures WHERE cell = ? ORDER BY image", cell.key)
        try:
            return [
                PictureRow(cell.key, Picture.from_bytes(image, label, views), bool(fell))
                for image, label, fell, views in rows
            ]
        except ValueError as error:
            raise RequestError(f"{self.file} is damaged ({error}): repeat the run in another --out") from None

    def pictured(self, cell: Cell) -> dict[int, bool]:
        """Images with a picture, of those that were right when clean, and whether they fell."""
        rows = self._select(
            "SELECT p.image, p.fell FROM pictures p JOIN clean c ON c.model = ? AND c.image = p.image "
            "WHERE p.cell = ? AND c.prediction = c.label",
            cell.model,
            cell.key,
        )
        return {image: bool(fell) for image, fell in rows}

    def sums(self, cell: Cell) -> CellSums:
        """Counts over what is recorded of a cell, in the order of images, so that sums do not depend on history."""
        rows = self._select(
            "SELECT v.attacked, v.prediction = c.label, v.size, v.degenerate_gradient, v.forward_passes, "
            "v.backward_passes, v.carried FROM verdicts v JOIN clean c ON c.model = ? AND c.image = v.image "
            "WHERE v.cell = ? ORDER BY v.image",
            cell.model,
            cell.key,
        )
        fell = [size for attacked, correct, size, *_ in rows if attacked and not correct]
        return CellSums(
            images=len(rows),
            clean_correct=sum(row[0] for row in rows),
            robust_correct=sum(row[0] and row[1] for row in rows),
            fallen=len(fell),
            fallen_size=sum(fell, 0.0),
            degenerate_gradient=sum(row[3] for row in rows),
            forward_passes=sum(row[4] for row in rows),
            backward_passes=sum(row[5] for row in rows),
            carried=sum(row[6] for row in rows),
        )

    def seconds(self, cell: Cell, work: str) -> float:
        """Time spent on a cell's ``attack`` or ``explanation``, all sessions together."""
        total = self._select("SELECT TOTAL(seconds) FROM timings WHERE cell = ? AND work = ?", cell.key, work)[0][0]
        return float(total)

    def _layout(self) -> int:
        """Version of the tables in the file, 0 for a file without any."""
        tables = self._select("SELECT COUNT(*) FROM sqlite_master")[0][0]
        version = int(self._select("PRAGMA user_version")[0][0])
        # The first version recorded none.
        return 1 if tables and version == 0 else version

    def _insert(self, table: str, rows: Iterable[Sequence[object]]) -> None:
        for row in rows:
            places = ", ".join("?" * len(row))
            self._database.execute(f"INSERT OR REPLACE INTO {table} VALUES ({places})", tuple(row))

    def _select(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self._lock, self._explained():
            return self._database.execute(query, values).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock, self._explained():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                # A full disk has already ended the transaction; rolling back twice would hide why.
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if "full" in str(error) or "I/O" in str(error):
                raise RequestError(
                    f"the disk of {self.file} is full: free some space, then repeat the command to continue"
                ) from None
            raise RequestError(f"{self.file} cannot be written ({error}): choose another --out") from None
        except sqlite3.DatabaseError as error:
            raise RequestError(
                f"{self.file} is damaged ({error}): remove the run folder, or restore it, or choose another --out"
            ) from None
