"""The store: a batch is one transaction, sums do not depend on history, and a bad disk is said in plain words."""

import os
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustbench_bcos.attacks.searches.pgd import PGD
from robustbench_bcos.attacks.threat import Threat
from robustbench_bcos.bench.cells import Cell
from robustbench_bcos.bench.pictures import Picture, View
from robustbench_bcos.bench.rows import (
    AdversarialRow,
    CleanRow,
    DistanceRow,
    PictureRow,
    ResultRow,
    Row,
    SimilarityRow,
    TransferRow,
    VerdictRow,
    tables,
)
from robustbench_bcos.bench.store import LAYOUT, Store
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.version import VERSION
from robustbench_bcos.explanations.similarity import MEASURES
from tests.bench.by_hand import (
    clean_row,
    distance_row,
    evidence_row,
    holding,
    model_row,
    timing,
    transfer_row,
    verdict_row,
)

CELL = Cell(
    model="net",
    threat=Threat.of("l2", "1/2"),
    attack=PGD(steps=20, loss="auto"),
    criterion="misclassified",
    space="image",
)
OTHER = replace(CELL, attack=PGD(steps=100, loss="auto"))
MODEL = model_row(explanation="dynamic_weights")


def clean_rows(labels: Iterable[int], predictions: Iterable[int], model: str = "net") -> list[CleanRow]:
    return [clean_row(image, *row, model) for image, row in enumerate(zip(labels, predictions, strict=True))]


def verdict(image: int, cell: Cell = CELL, **changes: Any) -> VerdictRow:
    return verdict_row(cell, image, **changes)


def fill(store: Store) -> None:
    """Ten rows at a time, and never enough."""
    for first in range(1000, 100_000, 10):
        store.add(*(verdict(image) for image in range(first, first + 10)), timing(CELL, "attack", 0.5))


def use(file: Path) -> None:
    with Store(file) as store:
        store.sums(CELL)
        store.add(*clean_rows([1] * 2000, [2] * 2000))


def connection(store: Store) -> sqlite3.Connection:
    return store._database


# Rows


def rows_of(table: type[Row]) -> st.SearchStrategy[Row]:
    """Rows of a table, whatever they hold."""
    small = {str: st.text(max_size=4), int: st.integers(-9, 9), float: st.floats(-1, 1), bytes: st.binary(max_size=4)}

    def value(kind: Any) -> st.SearchStrategy[Any]:
        kinds = get_args(kind) or (kind,)
        if Mapping in (get_origin(kind), kind):
            return st.fixed_dictionaries({measure: value(kinds[-1]) for measure in MEASURES})
        of = {bool: st.booleans(), type(None): st.none(), **small}
        return st.one_of(*(of[one] for one in kinds))

    return st.builds(
        table, **{name: value(kind) for name, kind in get_type_hints(table).items() if name in fields_of(table)}
    )


def fields_of(table: type[Row]) -> list[str]:
    return [field.name for field in fields(table)]


@pytest.mark.parametrize("table", tables(), ids=lambda table: table.table)
@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_a_row_is_read_as_it_was_written_its_truth_values_included(table: type[Row], data: st.DataObject) -> None:
    row = data.draw(rows_of(table))
    with Store() as store:
        store.add(row)
        (found,) = store.select(table)
        assert found == row
        assert [type(value) for value in vars(found).values()] == [type(value) for value in vars(row).values()]
        assert store.select(table, **{name: getattr(row, name) for name in table.key}) == [row]


@pytest.mark.parametrize("table", tables(), ids=lambda table: table.table)
def test_the_order_of_fields_decides_nothing_that_is_written(table: type[Row]) -> None:
    made = {str: str, int: int, float: float, bool: lambda place: place % 2, bytes: lambda place: b"%d" % place}
    values = {name: made[kind](place) for place, (name, kind) in enumerate(table.columns().items())}
    declared = dict(reversed(table.__dataclass_fields__.items()))
    changed = type("Changed", (table,), {"__dataclass_fields__": declared}, table=table.table, key=table.key)
    with Store() as store:
        store.add(*changed.read([*values], [[*values.values()]]))
        written = connection(store).execute(f"SELECT * FROM {table.table}")
        names = [column[0] for column in written.description]
        assert [dict(zip(names, row, strict=True)) for row in written] == [values]
        assert vars(*store.select(table)) == vars(*store.select(changed))


def test_a_column_that_is_not_there_is_not_taken_for_a_text(store: Store) -> None:
    with pytest.raises(TypeError, match="VerdictRow has no column image_number"):
        store.select(VerdictRow, image_number=1)


def test_rows_cannot_be_filled_by_position() -> None:
    assert all(field.kw_only for table in tables() for field in fields(table))


# Transactions


def test_a_batch_of_several_tables_is_recorded_whole_or_not_at_all(store: Store) -> None:
    rows = [verdict(0), verdict(1), AdversarialRow(cell=CELL.key, image=1, pixels=b"one"), timing(CELL, "attack")]
    for place in range(len(rows) + 1):
        with pytest.raises(RequestError):
            store.add(*rows[:place], holding(verdict(2), size=object()), *rows[place:])
        assert store.done(CELL) == set()
        assert store.adversarials(CELL) == {}
        assert store.seconds(CELL, "attack") == 0
    store.add(*rows)
    assert store.done(CELL) == {0, 1}
    assert store.adversarials(CELL) == {1: b"one"}
    assert store.seconds(CELL, "attack") == 1.0


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_in_a_batch_leaves_nothing_of_it(error: type[BaseException], store: Store) -> None:
    class Broken:
        def __conform__(self, _: object) -> int:
            raise error

    store.add(*clean_rows([7], [7], model="other"))
    with pytest.raises(error):
        store.add(*clean_rows([1, 2], [1, 2]), holding(clean_row(3), prediction=Broken()))
    assert store.clean("net") == {}
    store.add(*clean_rows([1, 2], [1, 0]))
    assert store.clean("net") == {0: clean_row(0, 1, 1), 1: clean_row(1, 2, 0)}
    assert len(store.clean("other")) == 1


def test_another_connection_never_sees_half_a_batch(tmp_path: Path) -> None:
    seen = []
    with Store(tmp_path / "run.sqlite") as store, Store(tmp_path / "run.sqlite") as reader:

        class Watched:
            """A prediction that looks at the other connection when it is written."""

            def __conform__(self, _: object) -> int:
                seen.append(len(reader.clean("net")))
                return 1

        store.add(*(holding(row, prediction=Watched()) for row in clean_rows([1, 2, 3], [1, 2, 3])))
        assert seen == [0, 0, 0]
        assert len(reader.clean("net")) == 3


def test_what_was_recorded_is_there_when_the_file_is_opened_again(tmp_path: Path) -> None:
    with Store(tmp_path / "run.sqlite") as store:
        store.add(MODEL, *clean_rows([4, 5], [4, 0]))
        store.add(verdict(1), verdict(0), timing(CELL, "attack", 1.5))
        store.add(verdict(0, OTHER), timing(OTHER, "attack", 2.5))
    with Store(tmp_path / "run.sqlite") as store:
        assert store.model("net") == MODEL
        assert store.clean("net")[1] == clean_row(1, 5, 0)
        assert (store.done(CELL), store.done(OTHER)) == ({0, 1}, {0})
        assert (store.seconds(CELL, "attack"), store.seconds(OTHER, "attack")) == (1.5, 2.5)


def test_rows_of_a_key_that_is_there_replace_it_and_come_in_its_order(store: Store) -> None:
    store.add(verdict(2), verdict(0, size=0.5), verdict(1))
    store.add(verdict(0, size=0.125))
    assert [(row.image, row.size) for row in store.verdicts(CELL)] == [(0, 0.125), (1, 0.25), (2, 0.25)]
    # Times have no key: those of all sessions count.
    store.add(timing(CELL, "attack"), timing(CELL, "attack"))
    assert store.seconds(CELL, "attack") == 2.0


# Sums


@pytest.mark.parametrize("seed", range(3))
def test_sums_are_those_of_pandas_in_whatever_order_batches_came(seed: int) -> None:
    random = np.random.default_rng(seed)
    labels, clean, after = random.integers(0, 3, size=(3, 60))
    attacked = clean == labels
    table = pd.DataFrame(
        {
            "image": np.arange(60),
            "attacked": attacked,
            "success": attacked & (after != labels),
            "prediction": np.where(attacked, after, -1),
            # Sums of such numbers depend on their order.
            "size": np.where(attacked, random.uniform(0, 1, 60) ** 9, 0.0),
            "degenerate_gradient": attacked & (random.uniform(size=60) < 0.2),
            "forward_passes": np.where(attacked, random.integers(1, 22, 60), 0),
            "backward_passes": np.where(attacked, random.integers(0, 21, 60), 0),
        }
    )
    rows = [VerdictRow(cell=CELL.key, **row) for row in table.astype(object).to_dict("records")]
    random.shuffle(rows)
    with Store() as store:
        store.add(*clean_rows(labels.tolist(), clean.tolist()))
        # The same images of another model and verdicts of another cell, which do not count.
        store.add(*clean_rows(((labels + 1) % 3).tolist(), clean.tolist(), model="other"))
        store.add(*(verdict(image, OTHER) for image in range(60)))
        for first in range(0, 60, 7):
            store.add(*rows[first : first + 7])
        sums = store.sums(CELL)
    broken = table[table["success"]]
    assert 0 < len(broken) < attacked.sum() < 60
    assert sums.images == 60
    assert sums.clean_correct == table["attacked"].sum()
    assert sums.robust_correct == (table["attacked"] & (table["prediction"] == labels)).sum()
    assert sums.broken == len(broken)
    assert sums.broken_size == sum(broken["size"])
    assert sums.degenerate_gradient == table["degenerate_gradient"].sum()
    assert sums.forward_passes == table["forward_passes"].sum()
    assert sums.backward_passes == table["backward_passes"].sum()


def test_a_prediction_of_no_class_is_never_the_label(store: Store) -> None:
    store.add(*clean_rows([0, 1], [0, 1]), verdict(0, prediction=-1), verdict(1))
    assert (store.sums(CELL).robust_correct, store.sums(CELL).broken) == (1, 1)


def test_robust_images_come_in_the_order_of_their_margins(store: Store) -> None:
    margins = {0: -3.0, 1: -0.5, 2: 0.25, 3: None, 4: -0.5, 5: -1.0, 6: -9.0}
    store.add(*clean_rows([1] * 7, [1, 1, 1, 1, 1, 1, 2]))
    for image, margin in margins.items():
        store.add(verdict(image, attacked=image != 6, prediction=0 if image == 2 else 1, nearness=margin))
    # The second was broken, the last was wrong before; equal margins by image; what is not finite comes last.
    assert store.robust(CELL) == [1, 4, 5, 0, 3]
    assert store.robust(OTHER) == []


def test_checks_and_distances_are_found_by_what_they_are_of(store: Store) -> None:
    distances = [distance_row(3, 0.25, None), distance_row(1, 0.0, 0.5)]
    store.add(evidence_row(CELL.key), evidence_row(CELL.key, "black_box", "why not"), evidence_row("net", "stochastic"))
    store.add(*distances, distance_row(1, 0.0, 0.0, norm="linf"), distance_row(1, 0.0, 1.0, model="other"))
    store.add(transfer_row(CELL, "b", 9), transfer_row(CELL, "a", 9, False), transfer_row(CELL, "a", 7))
    assert {name: row.skipped_because for name, row in store.evidence(CELL.key).items()} == {
        "noise": "",
        "black_box": "why not",
    }
    assert store.evidence(OTHER.key) == {}
    assert store.select(DistanceRow, model="net", norm="l2") == distances[::-1]
    assert [(row.source, row.image) for row in store.select(TransferRow)] == [("a", 7), ("a", 9), ("b", 9)]


# Explanations


def similarity(image: int, comparison: str = "attack", *, cell: Cell = CELL) -> SimilarityRow:
    values = dict(zip(MEASURES, (None, *range(1, len(MEASURES))), strict=True))
    return SimilarityRow(
        cell=cell.key, image=image, comparison=comparison, explained_class="true", changed=True, values=values
    )


def picture(image: int, *, broken: bool = False, cell: Cell = CELL) -> PictureRow:
    random = np.random.default_rng(image)
    pixels, colours, contributions = (
        random.uniform(size=shape).astype(np.float32) for shape in ((3, 5, 4), (5, 4, 4), (5, 4))
    )
    view = View(pixels=pixels, explanation=colours, contributions=contributions, prediction=6, confidence=0.25)
    return PictureRow.of(cell.key, Picture(image=image, label=3, clean=view, attacked=view), broken=broken)


def test_every_measure_has_a_column_of_its_name(store: Store) -> None:
    store.add(similarity(3))
    for measure, value in similarity(3).values.items():
        assert connection(store).execute(f"SELECT {measure} FROM similarities").fetchall() == [(value,)]


def test_what_was_explained_and_pictured_is_found_by_cell(store: Store) -> None:
    store.add(similarity(7), similarity(3, "noise"), similarity(3), similarity(3, cell=OTHER))
    store.add(picture(7, broken=True), picture(3))
    assert (store.explained(CELL), store.explained(OTHER)) == ({3, 7}, {3})
    found = [(row.image, row.comparison) for row in store.select(SimilarityRow, cell=CELL.key)]
    assert found == [(3, "attack"), (3, "noise"), (7, "attack")]
    pictures = store.pictures(CELL)
    assert [(row.picture.image, row.picture.label, row.broken) for row in pictures] == [(3, 3, False), (7, 3, True)]
    assert store.pictures(OTHER) == []


@pytest.mark.parametrize("place", [0, 66, -30])
def test_a_damaged_picture_is_named_with_what_to_do(place: int, tmp_path: Path) -> None:
    file = tmp_path / "run.sqlite"
    with Store(file) as store:
        store.add(similarity(1), similarity(2), picture(1), picture(2))
        content = bytearray(picture(2).views)
        content[place : place + 9 if place >= 0 else None] = bytes(9)
        connection(store).execute("UPDATE pictures SET views = ? WHERE image = 2", (bytes(content),))
        with pytest.raises(RequestError, match=r"sqlite is damaged \(.*\): remove the run folder, or") as caught:
            store.pictures(CELL)
        assert "\n" not in str(caught.value)
        assert "unsafe" not in str(caught.value)
        # Numbers do not depend on pictures.
        assert len(store.select(SimilarityRow)) == 2


# Versions


def test_a_store_is_marked_with_its_layout_and_opened_again(tmp_path: Path) -> None:
    for _ in range(2):
        with Store(tmp_path / "run.sqlite") as store:
            assert connection(store).execute("PRAGMA user_version").fetchone() == (LAYOUT,)


@pytest.mark.parametrize(
    ("version", "said"),
    [
        (0, "has layout 1, which no release of robustbench_bcos reads: repeat the run in another folder"),
        (5, "has layout 5, which no release of robustbench_bcos reads: repeat the run in another folder"),
        (
            6,
            f"was written by robustbench_bcos 0.2.0, and this is {VERSION}: read it with 0.2.0, or repeat the run in "
            "another folder",
        ),
        (
            LAYOUT + 1,
            f"has layout {LAYOUT + 1}, of a later version of robustbench_bcos than this ({VERSION}): install "
            "a later one",
        ),
    ],
)
def test_a_store_of_another_version_is_refused_in_a_sentence_and_left_alone(
    version: int, said: str, tmp_path: Path
) -> None:
    file = tmp_path / "run.sqlite"
    with closing(sqlite3.connect(file)) as database:
        database.execute("CREATE TABLE models (name TEXT PRIMARY KEY)")
        database.execute(f"PRAGMA user_version = {version}")
        database.commit()
    before = file.read_bytes()
    with pytest.raises(RequestError) as caught:
        Store(file)
    assert str(caught.value) == f"{file} {said}"
    assert file.read_bytes() == before


# Disks


def test_a_full_disk_is_named_and_the_run_goes_on_once_there_is_room(tmp_path: Path) -> None:
    with Store(tmp_path / "run.sqlite") as store:
        database = connection(store)
        (pages,) = database.execute("PRAGMA page_count").fetchone()
        database.execute(f"PRAGMA max_page_count = {pages + 3}")
        with pytest.raises(RequestError, match=r"disk of .*run\.sqlite is full: free some space, then repeat"):
            fill(store)
        done = store.done(CELL)
        assert len(done) > 0
        assert len(done) % 10 == 0
        assert store.seconds(CELL, "attack") == 0.5 * len(done) / 10
        database.execute("PRAGMA max_page_count = 100000")
        rows = [verdict(image) for image in range(1000, 1200)]
        store.add(*rows)
        assert store.done(CELL) >= {row.image for row in rows}


@pytest.mark.parametrize("remains", [0.7, 0.4, 100])
def test_a_damaged_file_is_named_with_what_to_do(tmp_path: Path, remains: float) -> None:
    file = tmp_path / "run.sqlite"
    with Store(file) as store:
        store.add(*clean_rows([1] * 2000, [1] * 2000))
        for first in range(0, 2000, 500):
            store.add(*(verdict(image) for image in range(first, first + 500)))
    content = file.read_bytes()
    file.write_bytes(content[: int(remains if remains > 1 else remains * len(content))])
    with pytest.raises(RequestError, match=r"run\.sqlite is damaged \(.*\): remove the run folder"):
        use(file)


def test_a_file_that_is_no_database_is_not_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "run.sqlite"
    file.write_text("a shopping list, and a long one at that\n" * 30, encoding="utf-8")
    with pytest.raises(RequestError, match="is damaged"):
        Store(file)
    assert file.read_text(encoding="utf-8").startswith("a shopping list")


class Broken:
    """A connection to a disk that fails at everything."""

    def __init__(self, error: sqlite3.Error) -> None:
        self.error = error

    def execute(self, *_: object) -> None:
        raise self.error

    def close(self) -> None:
        """There is nothing to close."""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (sqlite3.OperationalError("disk I/O error"), "is full: free some space, then repeat the command to continue"),
        (sqlite3.OperationalError("attempt to write a readonly database"), "cannot be written (attempt to write a"),
        (sqlite3.DatabaseError("database disk image is malformed"), "is damaged (database disk image is malformed)"),
    ],
)
def test_what_a_disk_fails_at_is_said_in_plain_words(
    error: sqlite3.Error, said: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as failing:
        failing.setattr(store, "_database", Broken(error))
        for use in (lambda: store.add(MODEL), lambda: store.done(CELL)):
            with pytest.raises(RequestError) as caught:
                use()
            assert said in str(caught.value)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"nowhere/run\.sqlite cannot be written .*: choose another --out"):
        Store(tmp_path / "nowhere" / "run.sqlite")


# Damage, and reading without writing


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["folder", "pipe"])
def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "run.sqlite")
    for reading in (True, False):
        with pytest.raises(RequestError, match=r"is damaged \(it is no file\)"):
            Store(tmp_path / "run.sqlite", reading=reading)


@pytest.mark.parametrize(
    "planted",
    [
        "DROP TABLE digests; CREATE VIEW digests AS WITH RECURSIVE n(of) AS (SELECT 1 UNION ALL SELECT of FROM n) "
        'SELECT of, of subject, of part, of "rows", of digest FROM n',
        "CREATE TRIGGER more AFTER INSERT ON verdicts BEGIN UPDATE verdicts SET success = 0; END",
    ],
    ids=["view", "trigger"],
)
@pytest.mark.parametrize("reading", [True, False])
def test_what_computes_instead_of_being_stored_is_refused(tmp_path: Path, planted: str, reading: bool) -> None:
    file = filled(tmp_path / "run.sqlite")
    with closing(sqlite3.connect(file)) as database:
        database.executescript(planted)
    with pytest.raises(RequestError, match=r"is damaged \(it has a (view|trigger)"):
        Store(file, reading=reading)


def filled(file: Path) -> Path:
    """More than a block of verdicts, and a row or more of some tables; written backwards, and one row twice."""
    with Store(file) as store:
        store.add(MODEL, *clean_rows([1] * 600, [1] * 600), timing(CELL, "attack", 0.5), timing(CELL, "attack", 0.5))
        for last in range(600, 0, -70):
            store.add(*(verdict(image, size=image / 600) for image in range(max(0, last - 70), last)))
        store.add(verdict(5, prediction=2), picture(1), picture(300), evidence_row("net"), evidence_row("net", "space"))
        told = {"subject": "net", "check": "noise", "part": "sample", "broken": False, "against": False}
        store.add(*(ResultRow(image=image, value=None, passes=1, **told) for image in (0, 299, 599)))
        store.verify()
    return file


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("UPDATE verdicts SET success = 1 - success WHERE image = 599", "verdicts of 'net .*are not as they were"),
        ("UPDATE verdicts SET size = size * 1.0000001 WHERE image = 300", "verdicts"),
        ("UPDATE verdicts SET image = 601 WHERE image = 599", "verdicts"),
        ("DELETE FROM verdicts WHERE image = 256", "verdicts"),
        ("DELETE FROM verdicts WHERE image >= 512", "verdicts of 'net .* are missing"),
        ("DELETE FROM clean", "clean of 'net' are missing"),
        ("UPDATE clean SET correct = 0 WHERE image = 0", "clean"),
        ("UPDATE models SET b = 1", "models of 'net'"),
        ("UPDATE pictures SET views = x'00' WHERE image = 1", "pictures"),
        ("UPDATE evidence SET skipped_because = 'no time' WHERE \"check\" = 'space'", "evidence of 'net'"),
        ("UPDATE results SET against = 1 WHERE image = 299", "results of 'net'"),
        ("UPDATE timings SET seconds = 0", "timings"),
        ("DELETE FROM digests WHERE of = 'models'", "some models have no digest"),
        ("DELETE FROM digests WHERE of = 'verdicts' AND part = 2", "verdicts"),
        ("UPDATE digests SET part = 7 WHERE of = 'models'", "models of 'net'"),
        ("UPDATE digests SET subject = 'nets' WHERE of = 'models'", "models of 'nets'"),
        ('UPDATE digests SET "rows" = "rows" + 1', "not as they were written"),
        ('UPDATE digests SET "rows" = -1', "-1 is no number of rows"),
        ("UPDATE digests SET \"rows\" = 'x'", "'x' is no number of rows"),
        ("UPDATE models SET architecture = CAST(x'ff' AS TEXT)", "decode"),
    ],
)
def test_a_row_that_is_not_as_it_was_written_is_noticed(tmp_path: Path, damage: str, said: str) -> None:
    file = filled(tmp_path / "run.sqlite")
    with closing(sqlite3.connect(file)) as database:
        assert database.execute(damage).rowcount > 0
        database.commit()
    with Store(file, reading=True) as store, pytest.raises(RequestError, match=rf"is damaged \(.*{said}.*\): remove"):
        store.verify()


def test_adding_a_batch_looks_at_its_own_block_alone() -> None:
    steps = [0] * 40

    with Store() as store:
        for number in range(len(steps)):

            def count(number: int = number) -> None:
                steps[number] += 1

            store._database.set_progress_handler(count, 100)
            store.add(*(verdict_row(CELL, 256 * number + image) for image in range(256)))
    assert steps[-1] < 1.2 * steps[1]


def test_rows_that_were_compared_are_those_that_are_given(tmp_path: Path) -> None:
    file = filled(tmp_path / "run.sqlite")
    with Store(file, reading=True) as store:
        before = store.verdicts(CELL), store.columns(CleanRow, model="net")
        store.verify()
        store.verify()
        with closing(sqlite3.connect(file)) as database, database:
            database.execute("UPDATE verdicts SET success = 1 - success")
            database.execute("UPDATE clean SET correct = 1 - correct")
        assert (store.verdicts(CELL), store.columns(CleanRow, model="net")) == before


def test_reading_writes_nothing_and_takes_no_lock(tmp_path: Path) -> None:
    file = filled(tmp_path / "run.sqlite")
    with closing(sqlite3.connect(file, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        with Store(file, reading=True) as store:
            store.verify()
            assert len(store.done(CELL)) == 600
            with pytest.raises(RequestError, match="cannot be written"):
                store.add(MODEL)
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.sqlite"]


def test_a_reader_finds_what_was_whole_when_a_writer_was_killed(tmp_path: Path) -> None:
    """The journal of a transaction that nobody ends is what a kill leaves."""
    file = filled(tmp_path / "first.sqlite")
    with closing(sqlite3.connect(file, isolation_level=None)) as writer:
        writer.execute("PRAGMA cache_size = 1")
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("UPDATE verdicts SET success = 1")
        writer.execute("UPDATE clean SET correct = 0")
        killed = tmp_path / "killed" / "run.sqlite"
        killed.parent.mkdir()
        killed.write_bytes(file.read_bytes())
        Path(f"{killed}-journal").write_bytes(Path(f"{file}-journal").read_bytes())
    with Store(killed, reading=True) as store:
        store.verify()


# Of several files


@pytest.mark.parametrize("files", [1, 3, 20], ids=lambda files: f"{files} files")
def test_merged_files_are_the_store_that_was_written_at_once(files: int, tmp_path: Path) -> None:
    """Images of a block come from several files, one of which is damaged and left out, and one of which comes twice."""
    rows = [verdict_row(CELL, image) for image in range(700)]
    made = []
    for number in range(files):
        with Store(tmp_path / f"{number}.sqlite") as store:
            store.add(model_row(), *rows[number::files])
        made.append(tmp_path / f"{number}.sqlite")
    damaged, empty = tmp_path / "damaged.sqlite", tmp_path / "empty.sqlite"
    damaged.write_bytes(made[0].read_bytes())
    with closing(sqlite3.connect(damaged)) as database, database:
        database.execute("UPDATE verdicts SET success = 1 - success")
    empty.touch()
    with Store(tmp_path / "whole.sqlite") as whole, Store(tmp_path / "merged.sqlite") as merged:
        whole.add(model_row(), *rows)
        assert merged.merge(*made, damaged, made[0], empty, tmp_path / "none.sqlite") == [
            damaged,
            empty,
            tmp_path / "none.sqlite",
        ]
        merged.verify()
        for table in tables():
            assert merged.select(table) == whole.select(table)


def test_a_store_beside_is_read_and_never_written(tmp_path: Path) -> None:
    run, own = tmp_path / "run.sqlite", tmp_path / "own.sqlite"
    with Store(run) as store:
        store.add(clean_row(0), verdict_row(CELL, 0), verdict_row(CELL, 1))
    before = run.read_bytes()
    newer = replace(verdict_row(CELL, 1), prediction=7)
    with Store(own, beside=run) as store:
        store.add(newer, verdict_row(CELL, 2))
        assert store.done(CELL) == {0, 1, 2}
        assert store.verdicts(CELL) == [verdict_row(CELL, 0), newer, verdict_row(CELL, 2)]
        assert store.clean("net").keys() == {0}
    with Store(own, reading=True) as store:
        store.verify()
        assert store.done(CELL) == {1, 2}
    assert run.read_bytes() == before
