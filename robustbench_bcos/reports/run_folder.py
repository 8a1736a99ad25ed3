"""A run as a reader finds it."""

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from robustbench_bcos.bench.cells import Cell
from robustbench_bcos.bench.evidence.transfer import make_transfers
from robustbench_bcos.bench.evidence.trust import Judgement
from robustbench_bcos.bench.folder import Session, read_description
from robustbench_bcos.bench.fooled import make_fooled, make_fooled_images
from robustbench_bcos.bench.identity import RunIdentity
from robustbench_bcos.bench.records import (
    complete_cells,
    make_distances,
    make_evidence,
    make_images,
    make_records,
    make_similarities,
)
from robustbench_bcos.bench.rows import FooledPictureRow, PictureRow
from robustbench_bcos.bench.run_files import DATABASE
from robustbench_bcos.bench.smoothed import make_smoothed, make_smoothed_images
from robustbench_bcos.bench.store import Store
from robustbench_bcos.core.errors import RequestError

SMALL = 500_000
"""Bytes in the store up to which a cell's pictures are kept once they are read; those of large images would not fit
into memory together."""


P = TypeVar("P", PictureRow, FooledPictureRow)


class StoredPictures(Mapping[str, Sequence[P]]):
    """Pictures by cell, read when they are asked for: those of a whole run may not fit into memory."""

    def __init__(self, database: Path, cells: Sequence[Cell], read: Callable[[Store, Cell], Sequence[P]]) -> None:
        self._database = database
        self._cells = {cell.key: cell for cell in cells}
        self._read: Callable[[Store, Cell], Sequence[P]] = read
        self._kept: dict[str, Sequence[P]] = {}

    def __getitem__(self, cell: str) -> Sequence[P]:
        if cell in self._kept:
            return self._kept[cell]
        with Store(self._database, reading=True) as store:
            rows: Sequence[P] = self._read(store, self._cells[cell])
        if sum(len(row.views) for row in rows) <= SMALL:
            self._kept[cell] = rows
        return rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._cells)

    def __len__(self) -> int:
        return len(self._cells)


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """Records of the complete cells of a run, and how long each took."""

    folder: Path
    identity: RunIdentity
    records: pd.DataFrame
    timings: pd.DataFrame
    similarities: pd.DataFrame
    """Per cell, image and comparison, how similar contribution maps are: rows of ``explanations.csv``."""
    cells: list[str]
    """Key of the cell of each record."""
    pictures: Mapping[str, Sequence[PictureRow]]
    """Images to be looked at, by cell."""
    evidence: pd.DataFrame
    """Per cell and check, what was found."""
    transfers: pd.DataFrame
    """Per pair of models, how many adversarial examples of the one succeed on the other."""
    distances: pd.DataFrame
    """Per model, norm and image, bounds of the smallest epsilon within which an attack succeeds."""
    session: Session
    """What ``run.json`` says of the session that finished, or of the last one."""
    fooled: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Per cell, method and goal, what attacks did to explanations."""
    fooled_images: pd.DataFrame = field(default_factory=pd.DataFrame)
    """The same per image and comparison."""
    fooled_pictures: Mapping[str, Sequence[FooledPictureRow]] = field(default_factory=dict)
    """Images to be looked at whose explanations were attacked, by cell."""
    smoothed: pd.DataFrame = field(default_factory=pd.DataFrame)
    """What is certified of each model under noise, which is another function than the model."""
    smoothed_images: pd.DataFrame = field(default_factory=pd.DataFrame)
    """The same per image."""
    images: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Per cell and image, what the attack did to it."""

    @property
    def class_names(self) -> list[str]:
        """One name per class of the dataset."""
        return list(self.session["class_names"])

    @property
    def image_notes(self) -> list[str]:
        """What was left out, converted or is odd about the images, a sentence each."""
        return list(self.session["images"])

    @property
    def missing(self) -> int:
        """Cells that are not complete."""
        return len(self.identity.cells) - len(self.records)

    def check_pictured(self, images: Sequence[int]) -> None:
        """Refuse images that cannot be shown.

        Raises:
            RequestError: the run has no pictures of one of them.
        """
        if images and not len(self.similarities):
            raise RequestError(f"run {self.folder} has no attacked images to picture: repeat it without --no-figures")
        for cell in self.cells if images else ():
            known = [row.picture.image for row in self.pictures[cell]]
            for image in images:
                if image not in known:
                    raise RequestError(
                        f"--images {image} was not pictured for {cell}: choose from {', '.join(map(str, known))}, "
                        f"or repeat the run with --images {image}"
                    )


def read_run(folder: Path) -> RunFolder:
    """Read a run folder.

    Raises:
        RequestError: it is not a run, is damaged, or holds nothing yet.
    """
    description = read_description(folder)
    identity = description.identity
    if not (folder / DATABASE).is_file():
        raise RequestError(f"run {folder} holds no results yet: repeat the command that made it")
    with Store(folder / DATABASE, reading=True) as store, _uncollected():
        store.verify()
        judgement = Judgement(store, identity)
        return RunFolder(
            folder=folder,
            identity=identity,
            session=description.sessions[-1],
            cells=[cell.key for cell in complete_cells(store, identity)],
            records=make_records(store, identity, judgement),
            timings=pd.DataFrame([_timing(store, cell) for cell in identity.cells]),
            similarities=make_similarities(store, identity),
            pictures=StoredPictures(folder / DATABASE, identity.cells, Store.pictures),
            evidence=make_evidence(store, identity, judgement),
            transfers=make_transfers(store, identity),
            distances=make_distances(store, identity),
            images=make_images(store, identity, judgement),
            fooled=make_fooled(store, identity),
            fooled_images=make_fooled_images(store, identity),
            fooled_pictures=StoredPictures(folder / DATABASE, identity.cells, Store.fooled_pictures),
            smoothed=make_smoothed(store, identity),
            smoothed_images=make_smoothed_images(store, identity),
        )


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without cyclic garbage collection: a fifth of the time for millions of rows, which form no cycles."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _timing(store: Store, cell: Cell) -> dict[str, Any]:
    spent = {
        f"{work}_seconds": round(store.seconds(cell, work), 3)
        for work in ("attack", "explanation", "evidence", "distances", "fooling", "smoothing")
    }
    return {"cell": cell.key, **spent}
