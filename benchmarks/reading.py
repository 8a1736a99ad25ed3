"""What reading a run takes: a report of millions of verdicts beside another build's, and what digests cost.

    python benchmarks/reading.py --old DIR    # beside the package in that folder: a clone of version 0.2.0, say
    python benchmarks/reading.py --quick      # few images; quote nothing

A small run is carried out by each build, and its images repeated in the store until there are as many as wanted; then
whole commands take turns, `report --no-figures` into the run's folder, in processes of one thread. Their processor
time counts, start-up included, because other work on the machine does not change it much. Digests are measured inside
of one process.
"""

import json
import shutil
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from builds import HERE, SEVEN, THREE, command, in_turns
from pairs import Claim, make_parser, parse, publish


class Grid(NamedTuple):
    """Cells of a run, and the most that a report of it may take, as a ratio."""

    models: tuple[str, ...]
    norms: str
    eps: str
    steps: str
    target: float

    @property
    def options(self) -> list[str]:
        models = [option for name in self.models for option in ("--model", f"digits-{name}")]
        return [*models, "--norm", self.norms, "--eps", self.eps, "--steps", self.steps]


GRIDS = {
    12: Grid(THREE, "l2", "0.1,0.2,0.3,0.4", "2", 1.0),
    112: Grid(SEVEN, "l2,linf", "0.02,0.03,0.04,0.05", "2,4", 0.05),
}

FEW = 20
"""Images that are really attacked."""


def carried_out(build: Path, grid: Grid, folder: Path) -> Path:
    command(build, "run", *grid.options, "--limit", str(FEW), "--no-figures", "--quiet", "--out", str(folder))
    return folder


def repeated_here(small: Path, folder: Path, images: int) -> Path:
    """The run with its images repeated, written by this build."""
    from robustbench_bcos.bench.folder import open_run, read_description
    from robustbench_bcos.bench.rows import CleanRow, DigestRow, VerdictRow, tables
    from robustbench_bcos.bench.run_files import DATABASE
    from robustbench_bcos.bench.store import Store

    description = read_description(small)
    identity = replace(description.identity, images=images)
    with open_run(folder, identity, description.sessions[-1]), Store(folder / DATABASE) as store:
        with Store(small / DATABASE, reading=True) as source:
            for table in tables():
                if table is not DigestRow:
                    store.add(*source.select(table))
            few: list[Any] = [*source.select(CleanRow), *source.select(VerdictRow)]
        numbers = sorted({row.image for row in few})
        for start in range(0, images, len(numbers)):
            other = dict(zip(numbers, range(start, images), strict=False))
            store.add(*(replace(row, image=other[row.image]) for row in few if row.image in other))
    return folder


def repeated_there(small: Path, folder: Path, images: int) -> Path:
    """The same by SQL, for a build whose stores carry no digests."""
    shutil.copytree(small, folder)
    content = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    content["identity"]["images"] = images
    (folder / "run.json").write_text(json.dumps(content), encoding="utf-8")
    with closing(sqlite3.connect(folder / "run.sqlite")) as database:
        for table in ("clean", "verdicts"):
            columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
            place = columns.index("image")
            few = database.execute(f"SELECT * FROM {table}").fetchall()
            numbers = sorted({row[place] for row in few})
            for start in range(0, images, len(numbers)):
                other = dict(zip(numbers, range(start, images), strict=False))
                rows = [(*row[:place], other[row[place]], *row[place + 1 :]) for row in few if row[place] in other]
                marks = ", ".join("?" for _ in columns)
                database.executemany(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", rows)
        database.commit()
    return folder


def reports(place: Path, old: Path | None, cells: int, images: int, pairs: int) -> list[Claim]:
    """Of both builds, in turns."""
    ours = repeated_here(carried_out(HERE, GRIDS[cells], place / f"few{cells}"), place / f"run{cells}", images)
    what = f"report of {images:,} images x {cells} cells, of the processor"
    if old is None:
        seconds = command(HERE, "report", str(ours), "--no-figures")
        return [Claim(what, "the clock", seconds, None, unit="s")]
    theirs = repeated_there(carried_out(old, GRIDS[cells], place / f"old{cells}"), place / f"oldrun{cells}", images)

    def reported(build: Path, run: Path) -> float:
        return command(build, "report", str(run), "--no-figures")

    turns = in_turns(lambda: reported(HERE, ours), lambda: reported(old, theirs), pairs)
    return [Claim.of(what, old.name, turns, GRIDS[cells].target)]


@contextmanager
def timed(owner: type, *names: str) -> Iterator[list[float]]:
    """Processor seconds that methods take, one inside of another counted once."""
    spent, depth = [0.0], [0]
    before = {name: getattr(owner, name) for name in names}

    def around(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401
            depth[0] += 1
            began = time.process_time()
            try:
                return method(*arguments, **named)
            finally:
                depth[0] -= 1
                spent[0] += 0.0 if depth[0] else time.process_time() - began

        return call

    for name, method in before.items():
        setattr(owner, name, around(method))
    try:
        yield spent
    finally:
        for name, method in before.items():
            setattr(owner, name, method)


def digests(run: Path, place: Path, pairs: int, quick: bool) -> list[Claim]:
    """Their share of reading a run, and of runs with and without evidence."""
    from typer.testing import CliRunner

    from robustbench_bcos.bench.store import Store
    from robustbench_bcos.cli import app

    def seconds(*arguments: str) -> float:
        began = time.process_time()
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        return time.process_time() - began

    def share(*arguments: str) -> float:
        with timed(Store, "verify", "_digest") as spent:
            whole = seconds(*arguments)
        return 100 * spent[0] / whole

    def without(*arguments: str) -> float:
        with mock.patch.object(Store, "verify"):
            return seconds(*arguments)

    report = ("report", str(run), "--no-figures")
    seconds(*report)  # Which imports what it needs.
    # Rows that were compared are not read again, so what comparing takes is not what it costs.
    saved = [1 - without(*report) / seconds(*report) for _ in range(3 * pairs)]
    claims = [Claim("digests", "a report", 100 * statistics.median(saved), 10.0, unit="%")]
    for evidence in ("off", "quick"):
        asked = ("run", "--model", "digits-natural", "--limit", "20" if quick else "200", "--no-figures", "--quiet")
        found = share(*asked, "--evidence", evidence, "--out", str(place / f"digests {evidence}"))
        claims.append(Claim("digests", f"a run of 200 images, evidence {evidence}", found, 2.0, unit="%"))
    return claims


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--old", type=Path, metavar="DIR", help="folder of the other package")
    parser.add_argument("--cells", default="12,112", help="with commas in between (12,112)")
    options = parse(parser)
    images, pairs = (500, 1) if options.quick else (10_000, options.pairs or 3)
    sizes = [12] if options.quick else [int(cells) for cells in options.cells.split(",")]
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        claims = [claim for cells in sizes for claim in reports(place, options.old, cells, images, pairs)]
        claims += digests(place / f"run{sizes[0]}", place, pairs, options.quick)
    publish("reading", claims, options)


if __name__ == "__main__":
    main()
