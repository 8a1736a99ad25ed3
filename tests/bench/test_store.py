"""The store: a batch is one transaction, sums do not depend on history, and a bad disk is said in plain words."""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from robustbench_bcos.bench.cells import Cell
from robustbench_bcos.bench.pictures import Picture, View
from robustbench_bcos.bench.store import (
    LAYOUT,
    CleanRow,
    DistanceRow,
    ExaminationRow,
    FindingRow,
    ModelRow,
    PictureRow,
    SimilarityRow,
    Store,
    TransferRow,
    VerdictRow,
)
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.quantities import Quantity
from robustbench_bcos.explanations.similarity import MEASURES

CELL = Cell(
    model="net",
    attack="pgd",
    norm="l2",
    radius=Quantity("1/2", 0.5),
    steps=20,
    step_size=None,
    loss="auto",
    restarts=1,
    start="image",
    count="any",
    space="image",
)
OTHER = Cell.from_dict(CELL.as_dict() | {"steps": 100})
MODEL = ModelRow("net", "bcos", "bcos_resnet8", 123, "natural", "bce", "ab" * 32, 2.0, "dynamic_weights")


def clean_rows(labels: Iterable[int], predictions: Iterable[int], model: str = "net") -> list[CleanRow]:
    return [CleanRow(model, image, *row) for image, row in enumerate(zip(labels, predictions, strict=True))]


def verdict(image: int, cell: Cell = CELL, *, prediction: int = 1, size: float = 0.25) -> VerdictRow:
    return VerdictRow(cell.key, image, True, prediction, size, False, 3, 2)


def fill(store: Store) -> None:
    """Ten rows at a time, and never enough."""
    for first in range(1000, 100_000, 10):
        store.add_verdicts([verdict(image) for image in range(first, first + 10)], 0.5)


def use(file: Path) -> None:
    with Store(file) as store:
        store.sums(CELL)
        store.add_clean(clean_rows([1] * 2000, [2] * 2000))


def connection(store: Store) -> sqlite3.Connection:
    return store._database


# Transactions


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_in_a_batch_leaves_nothing_of_it(error: type[BaseException], store: Store) -> None:
    def broken() -> Iterator[CleanRow]:
        yield from clean_rows([1, 2, 3], [1, 2, 0])
        raise error

    store.add_clean(clean_rows([7], [7], model="other"))
    with pytest.raises(error):
        store.add_clean(broken())
    assert store.clean("net") == {}
    store.add_clean(clean_rows([1, 2], [1, 0]))
    assert store.clean("net") == {0: CleanRow("net", 0, 1, 1), 1: CleanRow("net", 1, 2, 0)}
    assert len(store.clean("other")) == 1


def test_a_batch_of_verdicts_is_recorded_whole_or_not_at_all(store: Store) -> None:
    unstorable: Any = object()
    rows = [verdict(0), verdict(1), verdict(2, size=unstorable)]
    with pytest.raises(RequestError):
        store.add_verdicts(rows, 1.0)
    assert store.done(CELL) == set()
    assert store.seconds(CELL, "attack") == 0
    store.add_verdicts(rows[:2], 1.0)
    assert store.done(CELL) == {0, 1}


def test_another_connection_never_sees_half_a_batch(tmp_path: Path) -> None:
    seen = []
    with Store(tmp_path / "run.sqlite") as store, Store(tmp_path / "run.sqlite") as reader:

        def watched() -> Iterator[CleanRow]:
            for row in clean_rows([1, 2, 3], [1, 2, 3]):
                yield row
                seen.append(len(reader.clean("net")))

        store.add_clean(watched())
        assert seen == [0, 0, 0]
        assert len(reader.clean("net")) == 3


def test_what_was_recorded_is_there_when_the_file_is_opened_again(tmp_path: Path) -> None:
    with Store(tmp_path / "run.sqlite") as store:
        store.add_model(MODEL)
        store.add_clean(clean_rows([4, 5], [4, 0]))
        store.add_verdicts([verdict(1), verdict(0)], 1.5)
        store.add_verdicts([verdict(0, OTHER)], 2.5)
    with Store(tmp_path / "run.sqlite") as store:
        assert store.model("net") == MODEL
        assert store.clean("net")[1] == CleanRow("net", 1, 5, 0)
        assert store.done(CELL) == {0, 1}
        assert store.done(OTHER) == {0}
        assert (store.seconds(CELL, "attack"), store.seconds(OTHER, "attack")) == (1.5, 2.5)


def test_a_batch_that_is_recorded_again_replaces_the_first(store: Store) -> None:
    store.add_clean(clean_rows([1, 1], [1, 1]))
    store.add_verdicts([verdict(0, prediction=0, size=0.5), verdict(1)], 1.0)
    store.add_verdicts([verdict(0, size=0.125)], 1.0)
    sums = store.sums(CELL)
    assert (sums.images, sums.robust_correct, sums.fallen_size) == (2, 2, 0)


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
            "prediction": np.where(attacked, after, -1),
            # Sums of such numbers depend on their order.
            "size": np.where(attacked, random.uniform(0, 1, 60) ** 9, 0.0),
            "degenerate_gradient": attacked & (random.uniform(size=60) < 0.2),
            "forward_passes": np.where(attacked, random.integers(1, 22, 60), 0),
            "backward_passes": np.where(attacked, random.integers(0, 21, 60), 0),
        }
    )
    rows = [VerdictRow(CELL.key, *row) for row in table.astype(object).itertuples(index=False, name=None)]
    random.shuffle(rows)
    with Store() as store:
        store.add_clean(clean_rows(labels.tolist(), clean.tolist()))
        # The same images of another model and verdicts of another cell, which do not count.
        store.add_clean(clean_rows(((labels + 1) % 3).tolist(), clean.tolist(), model="other"))
        store.add_verdicts([verdict(image, OTHER) for image in range(60)], 1.0)
        for first in range(0, 60, 7):
            store.add_verdicts(rows[first : first + 7], 1.0)
        sums = store.sums(CELL)
    fell = table[table["attacked"] & (table["prediction"] != labels)]
    assert 0 < len(fell) < attacked.sum() < 60
    assert sums.images == 60
    assert sums.clean_correct == table["attacked"].sum()
    assert sums.robust_correct == (table["attacked"] & (table["prediction"] == labels)).sum()
    assert sums.fallen == len(fell)
    assert sums.fallen_size == sum(fell["size"])
    assert sums.degenerate_gradient == table["degenerate_gradient"].sum()
    assert sums.forward_passes == table["forward_passes"].sum()
    assert sums.backward_passes == table["backward_passes"].sum()


def test_a_prediction_of_no_class_is_never_the_label(store: Store) -> None:
    store.add_clean(clean_rows([0, 1], [0, 1]))
    store.add_verdicts([verdict(0, prediction=-1), verdict(1)], 1.0)
    assert (store.sums(CELL).robust_correct, store.sums(CELL).fallen) == (1, 1)


# Explanations


def shift(image: int, comparison: str = "attack", *, cell: Cell = CELL, value: float | None = 0.5) -> SimilarityRow:
    return SimilarityRow(cell.key, image, comparison, "true", image % 2 == 1, (value,) * len(MEASURES))


def picture(image: int, fell: bool = False, cell: Cell = CELL) -> PictureRow:
    random = np.random.default_rng(image)
    pixels, colours, contributions = (
        random.uniform(size=shape).astype(np.float32) for shape in ((3, 5, 4), (5, 4, 4), (5, 4))
    )
    view = View(pixels=pixels, explanation=colours, contributions=contributions, prediction=6, confidence=0.25)
    return PictureRow(cell.key, Picture(image=image, label=3, clean=view, attacked=view), fell)


def test_what_was_explained_is_there_when_the_file_is_opened_again(tmp_path: Path) -> None:
    rows = [shift(7), shift(3, "noise"), shift(3), shift(3, "other", value=None)]
    with Store(tmp_path / "run.sqlite") as store:
        store.add_similarities(rows, [picture(7, fell=True), picture(3)], 1.5)
        store.add_similarities([shift(3, cell=OTHER)], [], 2.5)
    with Store(tmp_path / "run.sqlite") as store:
        assert store.shifts(CELL) == [rows[2], rows[1], rows[3], rows[0]]
        assert (store.explained(CELL), store.explained(OTHER)) == ({3, 7}, {3})
        assert [(row.picture.image, row.picture.label, row.fell) for row in store.pictures(CELL)] == [
            (3, 3, False),
            (7, 3, True),
        ]
        assert store.pictures(OTHER) == []
        assert [store.seconds(cell, "explanation") for cell in (CELL, OTHER)] == [1.5, 2.5]
        assert store.seconds(CELL, "attack") == 0


def test_a_batch_of_explanations_is_recorded_whole_or_not_at_all(store: Store) -> None:
    unstorable: Any = object()
    with pytest.raises(RequestError):
        store.add_similarities([shift(1), shift(2)._replace(changed=unstorable)], [], 1.0)
    with pytest.raises(AttributeError):
        store.add_similarities([shift(1)], iter([picture(1), unstorable]), 1.0)
    assert store.explained(CELL) == set()
    assert store.pictures(CELL) == []
    assert store.seconds(CELL, "explanation") == 0


def test_a_batch_that_is_explained_again_replaces_the_first(store: Store) -> None:
    store.add_similarities([shift(1), shift(2)], [picture(1), picture(2)], 1.0)
    store.add_similarities([shift(1, value=0.25)], [picture(1, fell=True)], 1.0)
    assert [row.values[0] for row in store.shifts(CELL)] == [0.25, 0.5]
    assert [(row.picture.image, row.fell) for row in store.pictures(CELL)] == [(1, True), (2, False)]


@pytest.mark.parametrize("place", [0, 66, -30])
def test_a_damaged_picture_is_named_with_what_to_do(place: int, tmp_path: Path) -> None:
    file = tmp_path / "run.sqlite"
    with Store(file) as store:
        store.add_similarities([shift(1), shift(2)], [picture(1), picture(2)], 1.0)
        content = bytearray(picture(2).picture.to_bytes())
        content[place : place + 9 if place >= 0 else None] = bytes(9)
        connection(store).execute("UPDATE pictures SET views = ? WHERE image = 2", (bytes(content),))
        with pytest.raises(RequestError, match=r"sqlite is damaged \(.*\): repeat the run in another --out") as caught:
            store.pictures(CELL)
        assert "\n" not in str(caught.value)
        assert "unsafe" not in str(caught.value)
        # Numbers do not depend on pictures.
        assert len(store.shifts(CELL)) == 2


# Evidence and distances


def finding(image: int, check: str = "noise", subject: str = CELL.key) -> FindingRow:
    return FindingRow(subject, check, image, "nearest", image % 2 == 1, image % 3 == 0, image / 8 or None, 3 + image)


def test_what_was_found_is_there_when_the_file_is_opened_again(tmp_path: Path) -> None:
    distances = [DistanceRow("net", "l2", 3, 0.25, None, 40), DistanceRow("net", "l2", 1, 0.0, 0.5, 30)]
    with Store(tmp_path / "run.sqlite") as store:
        store.add_examination(ExaminationRow(CELL.key, "noise", ""), [finding(5), finding(2)], [CELL], 1.5)
        store.add_examination(ExaminationRow(CELL.key, "black_box", "why not"), [], [CELL], 0.25)
        store.add_examination(ExaminationRow("net", "stochastic", ""), [finding(1, "stochastic", "net")],
                              [CELL, OTHER], 1.0)  # fmt: skip
        store.add_transfers([TransferRow(CELL.key, "b", 9, True), TransferRow(CELL.key, "a", 9, False)])
        store.add_transfers([TransferRow(CELL.key, "a", 7, True), TransferRow(OTHER.key, "a", 1, True)])
        store.add_distances(distances, CELL, 2.0)
        store.add_distances([DistanceRow("net", "linf", 1, 0.0, 0.0, 0), DistanceRow("other", "l2", 1, 0, 1, 2)],
                            OTHER, 3.0)  # fmt: skip
        store.add_verdicts([verdict(4), verdict(2)], 1.0, {4: b"four", 2: b"two"})
    with Store(tmp_path / "run.sqlite") as store:
        assert store.findings(CELL.key) == [finding(2), finding(5)]
        assert store.findings("net") == [finding(1, "stochastic", "net")]
        assert store.examinations(CELL.key) == {
            "noise": ExaminationRow(CELL.key, "noise", ""),
            "black_box": ExaminationRow(CELL.key, "black_box", "why not"),
        }
        assert store.examinations(OTHER.key) == {}
        assert [tuple(row[1:]) for row in store.transfers(CELL)] == [("a", 7, True), ("a", 9, False), ("b", 9, True)]
        assert store.distances("net", "l2") == {1: distances[1], 3: distances[0]}
        assert list(store.distances("net", "l2")) == [1, 3]
        assert [len(store.distances(*pair)) for pair in (("net", "linf"), ("other", "l2"), ("other", "linf"))] == [
            1, 1, 0,
        ]  # fmt: skip
        assert store.candidates(CELL) == {2: b"two", 4: b"four"}
        assert store.candidates(OTHER) == {}
        # What a look at the model took is shared by its cells.
        assert [store.seconds(cell, "evidence") for cell in (CELL, OTHER)] == [2.25, 0.5]
        assert [store.seconds(cell, "distances") for cell in (CELL, OTHER)] == [2.0, 3.0]


@pytest.mark.parametrize("what", ["examination", "transfers", "distances", "candidates"])
def test_evidence_is_recorded_whole_or_not_at_all(what: str, store: Store) -> None:
    unstorable: Any = object()
    bad = finding(1)._replace(value=unstorable)
    adding = {
        "examination": lambda: store.add_examination(
            ExaminationRow(CELL.key, "noise", ""), iter([finding(0), bad]), [CELL], 1.0
        ),
        "transfers": lambda: store.add_transfers(TransferRow(CELL.key, "a", 1, value) for value in (True, unstorable)),
        "distances": lambda: store.add_distances(
            (DistanceRow("net", "l2", 1, value, 1.0, 0) for value in (0.5, unstorable)), CELL, 1.0
        ),
        "candidates": lambda: store.add_verdicts([verdict(1)], 1.0, {1: b"one", 2: unstorable}),
    }  # fmt: skip
    with pytest.raises(RequestError):
        adding[what]()
    assert store.examinations(CELL.key) == {}
    assert store.findings(CELL.key) == []
    assert store.transfers(CELL) == []
    assert store.distances("net", "l2") == {}
    assert store.candidates(CELL) == {}
    assert store.done(CELL) == set()
    assert all(store.seconds(CELL, work) == 0 for work in ("attack", "evidence", "distances"))


def test_evidence_that_is_recorded_again_replaces_the_first(store: Store) -> None:
    for seconds, high in ((1.0, None), (1.0, 0.5)):
        store.add_distances([DistanceRow("net", "l2", 1, 0.25, high, 40)], CELL, seconds)
        store.add_transfers([TransferRow(CELL.key, "a", 1, high is None)])
        store.add_examination(ExaminationRow(CELL.key, "noise", "" if high else "why"), [finding(2)], [CELL], seconds)
    assert store.distances("net", "l2")[1].high == 0.5
    assert [bool(row.fell) for row in store.transfers(CELL)] == [False]
    assert store.examinations(CELL.key)["noise"].undone == ""
    assert len(store.findings(CELL.key)) == 1


def test_images_that_withstood_come_in_the_order_of_their_margins(store: Store) -> None:
    margins = {0: -3.0, 1: -0.5, 2: 0.25, 3: None, 4: -0.5, 5: -1.0, 6: -9.0}
    store.add_clean(clean_rows([1] * 7, [1, 1, 1, 1, 1, 1, 2]))
    store.add_verdicts(
        [
            VerdictRow(CELL.key, image, image != 6, 0 if image == 2 else 1, 0.25, False, 3, 2, margin)
            for image, margin in margins.items()
        ],
        1.0,
    )
    # The second fell, the last was wrong before; equal margins by image; what is not finite comes last.
    assert store.withstood(CELL) == [1, 4, 5, 0, 3]
    assert store.withstood(OTHER) == []


# Versions


def test_a_store_is_marked_with_its_layout_and_opened_again(tmp_path: Path) -> None:
    for _ in range(2):
        with Store(tmp_path / "run.sqlite") as store:
            assert connection(store).execute("PRAGMA user_version").fetchone() == (LAYOUT,)


@pytest.mark.parametrize("version", [0, LAYOUT - 1, LAYOUT + 1])
def test_a_store_of_another_version_is_refused_in_a_sentence_and_left_alone(version: int, tmp_path: Path) -> None:
    file = tmp_path / "run.sqlite"
    with closing(sqlite3.connect(file)) as database:
        database.execute("CREATE TABLE models (name TEXT PRIMARY KEY)")
        database.execute(f"PRAGMA user_version = {version}")
        database.commit()
    before = file.read_bytes()
    with pytest.raises(RequestError) as caught:
        Store(file)
    assert str(caught.value) == (
        f"{file} was written by another version of robustbench_bcos: read it with that version (run.json names it), "
        "or repeat the run"
    )
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
        store.add_verdicts(rows, 1.0)
        assert store.done(CELL) >= {row.image for row in rows}


@pytest.mark.parametrize("remains", [0.7, 0.4, 100])
def test_a_damaged_file_is_named_with_what_to_do(tmp_path: Path, remains: float) -> None:
    file = tmp_path / "run.sqlite"
    with Store(file) as store:
        store.add_clean(clean_rows([1] * 2000, [1] * 2000))
        for first in range(0, 2000, 500):
            store.add_verdicts([verdict(image) for image in range(first, first + 500)], 1.0)
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
        for use in (lambda: store.add_model(MODEL), lambda: store.done(CELL)):
            with pytest.raises(RequestError) as caught:
                use()
            assert said in str(caught.value)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"nowhere/run\.sqlite cannot be written .*: choose another --out"):
        Store(tmp_path / "nowhere" / "run.sqlite")
