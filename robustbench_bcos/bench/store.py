"""Everything one run measured: a row per model, cell and image, written batch by batch.

A batch is one transaction, so that a killed run loses at most the batch it was in. Threads may share a store.

Rows of a table that are of one subject form blocks of images, each with a digest in the same transaction: a disk
or a program that changes what a row says does not change a result unnoticed.
"""

import marshal
import os
import sqlite3
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from hashlib import blake2b
from itertools import groupby, islice, repeat
from pathlib import Path
from threading import RLock
from typing import Any, NamedTuple, TypeVar, cast

from robustbench_bcos.bench.cells import Cell
from robustbench_bcos.bench.rows import (
    AdversarialRow,
    CleanRow,
    DigestRow,
    EvidenceRow,
    FooledPictureRow,
    FooledRow,
    ModelRow,
    PictureRow,
    R,
    ResultRow,
    Row,
    SimilarityRow,
    TimingRow,
    VerdictRow,
    tables,
)
from robustbench_bcos.core.disk import no_link
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.version import VERSION

LAYOUT = 9
"""Version of the tables, recorded in the file: another version's would be read wrongly."""

RELEASES = {6: "0.2.0"}
"""Versions whose stores had other layouts; a layout that is not here was in no release."""

ATTACHED = 8
"""Files that are merged in one transaction; SQLite attaches ten at most."""

BLOCK = 256
"""Images of a block: adding a batch hashes its blocks anew, and each has a row."""

KEPT = 100 * 2**20
"""Bytes of a file whose rows are kept once they have been compared with their digests: in memory they take five times
as many."""

INTERRUPTED = (sqlite3.SQLITE_READONLY_ROLLBACK, sqlite3.SQLITE_READONLY_RECOVERY)
"""What SQLite says to a reader of a file that a writer left in the middle of a transaction."""

COMPANIONS = ("", "-journal", "-wal", "-shm")
"""What SQLite adds to a file's name where it writes, following links."""

NAMES_ANOTHER = bytes.fromhex("d9d505f920a163d7")
"""End of a journal that names a journal of several databases (https://www.sqlite.org/fileformat2.html)."""

SQL_TYPES: dict[type, str] = {str: "TEXT", int: "INTEGER", bool: "INTEGER", float: "REAL", bytes: "BLOB"}

P = TypeVar("P", PictureRow, FooledPictureRow)


class _Block(NamedTuple):
    """Rows of a table that share a digest."""

    table: type[Row]
    subject: str
    part: int


@dataclass(frozen=True, kw_only=True, slots=True)
class CellSums:
    """Counts and sums over the images of a cell."""

    images: int
    clean_correct: int
    attacked: int
    robust_correct: int
    broken: int
    broken_size: float
    """Sum of the perturbations of broken images."""
    degenerate_gradient: int
    forward_passes: int
    backward_passes: int
    inherited: int


class Store:
    """The database of a run, or one in memory.

    Args:
        file: where it is; in memory without one.
        reading: whether nothing is written.
        kinds: its tables, those of a run by default.
        beside: another store whose rows are known, too, and which is only read.

    Raises:
        RequestError: the file is damaged, the disk is full, or another version of this package wrote it.
    """

    def __init__(
        self,
        file: Path | None = None,
        *,
        reading: bool = False,
        kinds: Sequence[type[Row]] | None = None,
        beside: Path | None = None,
    ) -> None:
        self.file = file
        self._kinds = kinds
        self._tables: tuple[type[Row], ...] = tables() if kinds is None else (*kinds, DigestRow)
        self.beside = beside
        self._reading = reading
        self._verified: dict[tuple[type[Row], object], list[tuple[Any, ...]]] = {}
        self._lock = RLock()
        with self._explained():
            if file is not None and file.exists() and not file.is_file():
                raise self._damaged("it is no file")
            if file is not None and not reading:
                _check_companions(file)
            # The lock, and not SQLite, keeps threads apart.
            self._database = (
                self._opened_for_reading() if reading else self._connect(":memory:" if file is None else file)
            )
            if (layout := self._layout()) not in (0, LAYOUT):
                raise RequestError(f"{self.file} {_of_another_version(layout)}")
            for kind, name in self._select("SELECT type, name FROM sqlite_master WHERE type IN ('view', 'trigger')"):
                # Which compute something else than what was written, or have no end.
                raise self._damaged(f"it has a {kind}, {name!r}")
            if not reading:
                # At once: a disk is waited for once, and a session that dies leaves all of it or nothing.
                statements = ["BEGIN", f"PRAGMA user_version = {LAYOUT}", *map(_creation, self._tables), "COMMIT"]
                self._database.executescript(";\n".join(statements))
            if beside is not None:
                # A job's own store is nothing without its process, and need not wait for a disk.
                self._database.execute("PRAGMA synchronous = OFF")
                self._database.execute("ATTACH DATABASE ? AS beside", (_read_only(beside),))
                self._database.executescript(";\n".join(map(_union, self._tables)))

    def _opened_for_reading(self) -> sqlite3.Connection:
        """Without writing anything, or locking: as another user, from an archive."""
        assert self.file is not None
        address = _read_only(self.file)
        database = self._connect(address)
        try:
            database.execute("PRAGMA user_version")
        except sqlite3.OperationalError as error:
            database.close()
            if error.sqlite_errorcode not in INTERRUPTED or not os.access(self.file.parent, os.W_OK):
                raise
            # A process was killed in the middle of a batch; SQLite takes its half back when it may write.
            with Store(self.file):
                return self._connect(address)
        return database

    def _connect(self, address: "Path | str") -> sqlite3.Connection:
        return sqlite3.connect(address, uri=True, isolation_level=None, check_same_thread=False)

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def add(self, *rows: Row) -> None:
        """Write rows of one or several tables in one transaction; a row whose key is there already replaces it."""
        with self._transaction():
            for table, same in groupby(rows, key=type):
                added = list(same)
                self._insert(table, added)
                blocks = {_block(row) for row in added if not isinstance(row, DigestRow)}
                self._insert(DigestRow, [self._digest(table, *block) for block in blocks])

    def verify(self) -> None:
        """Compare all rows with their digests, and the file's structure with itself.

        A store that is only read gives the same rows afterwards, and does not read images' rows again.

        Raises:
            RequestError: something was changed, lost or damaged.
        """
        self._blocks(keep=self._reading and self.file is not None and self.file.stat().st_size <= KEPT)

    def merge(self, *files: Path) -> list[Path]:
        """Take over the rows of other stores, some in a transaction; gives the damaged ones, which are left out.

        A row whose key is known already takes the place of the one that was there.
        """
        sound: dict[Path, dict[_Block, DigestRow]] = {}
        for file in files:
            with suppress(RequestError), Store(file, reading=True, kinds=self._kinds) as other:
                sound[file] = other._blocks()
        for first in range(0, len(sound), ATTACHED):
            self._merge(dict(list(sound.items())[first : first + ATTACHED]))
        return [file for file in files if file not in sound]

    def _merge(self, others: Mapping[Path, Mapping["_Block", DigestRow]]) -> None:
        names = {f"other{number}": blocks for number, blocks in enumerate(others.values())}
        with self._lock, self._explained():
            for name, file in zip(names, others, strict=True):
                self._database.execute(f"ATTACH DATABASE ? AS {name}", (_read_only(file),))
            try:
                self._take_over(names)
            finally:
                for name in names:
                    self._database.execute(f"DETACH DATABASE {name}")

    def _take_over(self, others: Mapping[str, Mapping["_Block", DigestRow]]) -> None:
        """Rows of attached stores, with the digest of every block."""
        touched: dict[_Block, DigestRow | None] = {}
        with self._transaction():
            for name, blocks in others.items():
                for table in dict.fromkeys(block.table for block in blocks):
                    columns = _listed(table)
                    self._database.execute(
                        f"INSERT OR REPLACE INTO main.{table.table} ({columns}) SELECT {columns} FROM "
                        f"{name}.{table.table} ORDER BY {', '.join(map(_quoted, table.key)) or 'rowid'}"
                    )
                for block, digest in blocks.items():
                    touched[block] = None if block in touched or self._has(block) else digest
            # A block that several have a part of is hashed anew.
            self._insert(DigestRow, [digest or self._digest(*block) for block, digest in touched.items()])

    def copy_to(self, file: Path) -> None:
        """Write what has been committed to another file, where nothing may be yet.

        Raises:
            RequestError: a transaction is under way, or the disk is full.
        """
        assert self.file is not None
        with self._explained(), closing(self._connect(self.file)) as source, closing(self._connect(file)) as copy:
            source.backup(copy)

    def _blocks(self, keep: bool = False) -> dict["_Block", DigestRow]:
        """The digest of every block, which its rows have; they may be kept.

        Raises:
            RequestError: a block is not as it was written, or missing; or the file's structure is damaged.
        """
        verified: dict[tuple[type[Row], object], list[tuple[Any, ...]]] = {}
        known = {table: self.select(DigestRow, of=table.table) for table in self._tables if table is not DigestRow}
        for table, digests in known.items():
            with closing(
                self._rows(f"SELECT {_listed(table)} FROM main.{table.table} ORDER BY {_order(table)}")
            ) as rows:
                for row in digests:
                    block = self._some(rows, row.rows)
                    if _hashed(row.subject, row.part, block) != row.digest:
                        what = "not as they were written" if block else "missing"
                        raise self._damaged(f"{table.table} of {row.subject!r} are {what}")
                    if keep and _in_order(table):
                        verified.setdefault((table, row.subject), []).extend(block)
                if next(rows, None) is not None:
                    raise self._damaged(f"some {table.table} have no digest")
        if (structure := self._select("PRAGMA quick_check(1)")[0][0]) != "ok":
            raise self._damaged(structure)
        self._verified = verified
        return {_Block(table, row.subject, row.part): row for table, digests in known.items() for row in digests}

    def _some(self, rows: Iterator[tuple[Any, ...]], count: object) -> list[tuple[Any, ...]]:
        try:
            return list(islice(rows, cast(int, count)))
        except ValueError:
            raise self._damaged(f"{count!r} is no number of rows") from None

    def _has(self, block: "_Block") -> bool:
        table, subject, part = block
        query = "SELECT 1 FROM main.digests WHERE of = ? AND subject = ? AND part = ?"
        return self._database.execute(query, (table.table, subject, part)).fetchone() is not None

    def select(self, row: type[R], **where: object) -> list[R]:
        """Rows of a table, in the order of its key.

        Args:
            row: the table.
            where: the values that columns must have.

        Raises:
            TypeError: there is no such column.
        """
        return list(row.read(*self._found(row, where)))

    def columns(self, row: type[Row], **where: object) -> dict[str, tuple[Any, ...]]:
        """As :meth:`select`, by column; truths are 1 and 0."""
        columns, found = self._found(row, where)
        return dict(zip(columns, zip(*found, strict=True) if found else repeat(()), strict=False))

    def _found(self, row: type[Row], where: Mapping[str, object]) -> tuple[list[str], list[tuple[Any, ...]]]:
        columns = row.columns()
        if unknown := where.keys() - columns.keys():
            # SQLite would take the quoted name for a text.
            raise TypeError(f"{row.__name__} has no column {', '.join(sorted(unknown))}")
        if len(where) == 1 and (kept := self._verified.get((row, where.get(row.blocks_of)))):
            return list(columns), kept
        condition = " AND ".join(f"{_quoted(column)} = ?" for column in where) or "TRUE"
        order = ", ".join(map(_quoted, row.key)) or "rowid"
        query = f"SELECT {', '.join(map(_quoted, columns))} FROM {row.table} WHERE {condition} ORDER BY {order}"
        return list(columns), self._select(query, *where.values())

    def model(self, name: str) -> ModelRow:
        """The model of that name."""
        return self.select(ModelRow, name=name)[0]

    def clean(self, model: str) -> dict[int, CleanRow]:
        """Predictions without an attack by image, as far as they are known."""
        return {row.image: row for row in self.select(CleanRow, model=model)}

    def verdicts(self, cell: Cell) -> list[VerdictRow]:
        """All verdicts of a cell, by image."""
        return self.select(VerdictRow, cell=cell.key)

    def evidence(self, subject: str) -> dict[str, EvidenceRow]:
        """Checks that have been carried out, or skipped, for a cell's key or a model's name, by name of the check."""
        return {row.check: row for row in self.select(EvidenceRow, subject=subject)}

    def results(self, subject: str) -> list[ResultRow]:
        """What checks found for a cell's key or a model's name, by check and image."""
        return self.select(ResultRow, subject=subject)

    def adversarials(self, cell: Cell) -> dict[int, bytes]:
        """Pixels of the adversarial examples that are tried on other models, by image."""
        return {row.image: row.pixels for row in self.select(AdversarialRow, cell=cell.key, transferred=True)}

    def adversarial(self, cell: Cell, image: int) -> AdversarialRow | None:
        """The adversarial example of an image, where it was kept."""
        return next(iter(self.select(AdversarialRow, cell=cell.key, image=image)), None)

    def judged(self, cell: Cell) -> int:
        """How many images of a cell have a verdict."""
        count: int = self._select("SELECT COUNT(*) FROM verdicts WHERE cell = ?", cell.key)[0][0]
        return count

    def done(self, cell: Cell) -> set[int]:
        """Images of a cell that have a verdict."""
        return self._images(VerdictRow, cell)

    def explained(self, cell: Cell) -> set[int]:
        """Images of a cell whose maps have been compared."""
        return self._images(SimilarityRow, cell)

    def fooled(self, cell: Cell) -> set[int]:
        """Images of a cell whose explanations have been attacked."""
        return self._images(FooledRow, cell)

    def robust(self, cell: Cell) -> list[int]:
        """Images that an attack did not break, the nearest to being broken first."""
        rows = self._select(
            "SELECT image FROM verdicts WHERE cell = ? AND attacked AND NOT success ORDER BY nearness DESC, image",
            cell.key,
        )
        return [image for (image,) in rows]

    def broken(self, cell: Cell) -> set[int]:
        """Images that an attack broke."""
        return {image for (image,) in self._select("SELECT image FROM verdicts WHERE cell = ? AND success", cell.key)}

    def sums(self, cell: Cell) -> CellSums:
        """Counts over what is recorded of a cell, in the order of images, so that sums do not depend on history."""
        clean = self._select("SELECT COALESCE(SUM(correct), 0) FROM clean WHERE model = ?", cell.model)[0][0]
        counted = ("attacked", "success", "degenerate_gradient", "forward_passes", "backward_passes", "inherited")
        totals = ", ".join(f"COALESCE(SUM({column}), 0)" for column in counted)
        found = self._select(f"SELECT COUNT(*), {totals} FROM verdicts WHERE cell = ?", cell.key)[0]
        images, attacked, broken, degenerate_gradient, forward_passes, backward_passes, inherited = found
        sizes = self._select("SELECT size FROM verdicts WHERE cell = ? AND success ORDER BY image", cell.key)
        return CellSums(
            images=images,
            clean_correct=clean,
            attacked=attacked,
            robust_correct=clean - broken,
            broken=broken,
            broken_size=sum((size for (size,) in sizes), 0.0),
            degenerate_gradient=degenerate_gradient,
            forward_passes=forward_passes,
            backward_passes=backward_passes,
            inherited=inherited,
        )

    def pictures(self, cell: Cell) -> list[PictureRow]:
        """Images of a cell to be looked at, in the order of images.

        Raises:
            RequestError: one is damaged.
        """
        return self._whole(self.select(PictureRow, cell=cell.key))

    def fooled_pictures(self, cell: Cell) -> list[FooledPictureRow]:
        """Images of a cell to be looked at whose explanations were attacked, by method, goal and image.

        Raises:
            RequestError: one is damaged.
        """
        return self._whole(self.select(FooledPictureRow, cell=cell.key))

    def pictured(self, cell: Cell) -> dict[int, bool]:
        """Images of a cell with a picture about which the model is right, and whether the attack breaks them."""
        rows = self._select(
            "SELECT p.image, p.broken FROM pictures p JOIN clean c ON c.model = ? AND c.image = p.image "
            "WHERE p.cell = ? AND c.correct",
            cell.model,
            cell.key,
        )
        return {image: bool(broken) for image, broken in rows}

    def seconds(self, cell: Cell, work: str) -> float:
        """Time spent on a kind of work for a cell, all sessions together."""
        return sum((row.seconds for row in self.select(TimingRow, cell=cell.key, work=work)), 0.0)

    def _whole(self, rows: list[P]) -> list[P]:
        """Pictures that can be read."""
        try:
            for row in rows:
                _ = row.picture
        except ValueError as error:
            raise self._damaged(error) from None
        return rows

    def _insert(self, table: type[Row], rows: Iterable[Row]) -> None:
        columns = table.columns()
        filled = (row.to_columns() for row in rows)
        self._database.executemany(_insertion(table), ([values[name] for name in columns] for values in filled))

    def _images(self, row: type[Row], cell: Cell) -> set[int]:
        found = self._select(f"SELECT DISTINCT image FROM {row.table} WHERE cell = ?", cell.key)
        return {image for (image,) in found}

    def _layout(self) -> int:
        """Version of the tables in the file, 0 for a file without any."""
        count = self._select("SELECT COUNT(*) FROM sqlite_master")[0][0]
        version = int(self._select("PRAGMA user_version")[0][0])
        # The first version recorded none.
        return 1 if count and version == 0 else version

    def _select(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self._lock, self._explained():
            return self._database.execute(query, values).fetchall()

    def _rows(self, query: str) -> Generator[tuple[Any, ...], None, None]:
        """As :meth:`_select`, one after another: a table may be larger than memory."""
        with self._lock, self._explained():
            yield from self._database.execute(query)

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

    def _digest(self, table: type[Row], subject: str, part: int) -> DigestRow:
        values: list[object] = [subject]
        within = f"{_quoted(table.blocks_of)} = ?"
        if "image" in table.columns():
            # A range, which the key finds; a division would be carried out for every image of the subject.
            first = part * _images_in_block(table)
            values += [first, first + _images_in_block(table)]
            within += ' AND "image" >= ? AND "image" < ?'
        rows = self._select(
            f"SELECT {_listed(table)} FROM main.{table.table} WHERE {within} ORDER BY {_order(table)}", *values
        )
        digest = _hashed(subject, part, rows)
        return DigestRow(of=table.table, subject=subject, part=part, rows=len(rows), digest=digest)

    def _damaged(self, reason: object) -> RequestError:
        return RequestError(
            f"{self.file} is damaged ({reason}): remove the run folder, or restore it, or choose another --out"
        )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if "full" in str(error) or "I/O" in str(error):
                raise RequestError(
                    f"the disk of {self.file} is full: free some space, then repeat the command to continue"
                ) from None
            if getattr(error, "sqlite_errorcode", None) in INTERRUPTED:
                raise RequestError(
                    f"{self.file} was interrupted in the middle of a batch, which only a writer can undo: copy the run "
                    "to a folder that can be written"
                ) from None
            if "decode" in str(error) or "no such" in str(error):
                raise self._damaged(error) from None
            raise RequestError(f"{self.file} cannot be written ({error}): choose another --out") from None
        except sqlite3.DatabaseError as error:
            raise self._damaged(error) from None


def _of_another_version(layout: int) -> str:
    if layout > LAYOUT:
        return f"has layout {layout}, of a later version of robustbench_bcos than this ({VERSION}): install a later one"
    if layout in RELEASES:
        return (
            f"was written by robustbench_bcos {RELEASES[layout]}, and this is {VERSION}: read it with "
            f"{RELEASES[layout]}, or repeat the run in another folder"
        )
    return f"has layout {layout}, which no release of robustbench_bcos reads: repeat the run in another folder"


def _check_companions(file: Path) -> None:
    """Refuse what lets SQLite write or remove other files than a database's own.

    Raises:
        RequestError: a file is a link, or a journal names another file, which SQLite would remove.
    """
    for ending in COMPANIONS:
        no_link(file.with_name(file.name + ending))
    journal = file.with_name(f"{file.name}-journal")
    if journal.is_file() and journal.read_bytes().endswith(NAMES_ANOTHER):
        raise RequestError(
            f"{journal} is of several databases, which a run has not: remove it, or choose another --out"
        )


def _quoted(name: str) -> str:
    return f'"{name}"'


def _creation(row: type[Row]) -> str:
    """The statement that makes a table, unless it is there."""
    columns = [f"{_quoted(name)} {SQL_TYPES[kind]}" for name, kind in row.columns().items()]
    key = [f"PRIMARY KEY ({', '.join(map(_quoted, row.key))})"] if row.key else []
    # Blobs are kept out of the index: SQLite would split it into many pages.
    indexed = row.key and bytes not in row.columns().values()
    return f"CREATE TABLE IF NOT EXISTS {row.table} ({', '.join(columns + key)}){' WITHOUT ROWID' if indexed else ''}"


def _insertion(row: type[Row]) -> str:
    """The statement that writes a row, given its columns in their order."""
    marks = ", ".join("?" for _ in row.columns())
    return f"INSERT OR REPLACE INTO main.{row.table} ({_listed(row)}) VALUES ({marks})"


def _union(row: type[Row]) -> str:
    """The statement that makes a table's name stand for its rows here and for those beside, which these replace."""
    here, beside = f"SELECT {_listed(row)} FROM main.{row.table}", f"SELECT {_listed(row)} FROM beside.{row.table} AS b"
    if row.key:
        same = " AND ".join(f"m.{_quoted(column)} = b.{_quoted(column)}" for column in row.key)
        beside += f" WHERE NOT EXISTS (SELECT 1 FROM main.{row.table} AS m WHERE {same})"
    return f"CREATE TEMP VIEW {row.table} AS {here} UNION ALL {beside}"


def _read_only(file: Path) -> str:
    return f"{file.absolute().as_uri()}?mode=ro"


def _block(row: Row) -> tuple[str, int]:
    """Which block a row is in."""
    return getattr(row, row.blocks_of), getattr(row, "image", 0) // _images_in_block(type(row))


def _images_in_block(table: type[Row]) -> int:
    # Pixels of many images would be hashed again with each batch.
    return 1 if bytes in table.columns().values() else BLOCK


def _part(table: type[Row]) -> str:
    """The number of a row's block, in SQL."""
    return f'"image" / {_images_in_block(table)}' if "image" in table.columns() else "0"


def _listed(table: type[Row]) -> str:
    return ", ".join(map(_quoted, table.columns()))


def _order(table: type[Row]) -> str:
    """Blocks one after another, and rows of a block as their key has them."""
    key = ", ".join(map(_quoted, table.key or ["rowid"]))
    if _in_order(table):
        return key
    part = [_part(table)] if "image" in table.columns() else []
    return ", ".join([_quoted(table.blocks_of), *part, key])


def _in_order(table: type[Row]) -> bool:
    """Whether its key puts blocks one after another."""
    return table.key[:2] == (table.blocks_of, "image")


def _hashed(subject: Any, part: Any, rows: list[tuple[Any, ...]]) -> str:  # noqa: ANN401 (as SQLite has it)
    # Version 2 knows no references, which would depend on what else Python holds.
    return blake2b(marshal.dumps([subject, part, rows], 2), digest_size=16).hexdigest()
