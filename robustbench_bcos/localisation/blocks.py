"""A game played by jobs: each plays some pictures with one model, and this process alone writes the store.

Blocks begin and end where batches do.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from robustbench_bcos.bench.batch_size import BatchSize
from robustbench_bcos.bench.dispatch import Dispatch
from robustbench_bcos.bench.executor import AbstractJobs
from robustbench_bcos.bench.folder import read_localisation
from robustbench_bcos.bench.job import AbstractRowsJob
from robustbench_bcos.bench.job_folder import JobFolder
from robustbench_bcos.bench.provenance import check_same
from robustbench_bcos.bench.rows import Row
from robustbench_bcos.bench.run_files import DATABASE
from robustbench_bcos.bench.status import Inventory
from robustbench_bcos.bench.store import Store
from robustbench_bcos.bench.units import BLOCKS_A_WORKER, name_of
from robustbench_bcos.localisation.config import LocaliseConfig
from robustbench_bcos.localisation.playing import Played, batch_size, play_some, scored
from robustbench_bcos.localisation.rows import SUMMARY, ScoreRow
from robustbench_bcos.localisation.setting import Play, prepare


@dataclass(frozen=True, kw_only=True)
class Block:
    """Pictures that one job plays with."""

    run: str
    """Digest of the game."""
    model: str
    """Its name."""
    start: int
    """Number of the first picture."""
    stop: int
    """Number behind the last."""
    batch_size: int
    """Pictures at a time."""

    @property
    def name(self) -> str:
        """As part of a file's name."""
        return name_of(self, "localise")

    def __str__(self) -> str:
        return f"localisation of {self.model}, pictures {self.start} to {self.stop - 1}"


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of a model."""

    batch_size: int
    seconds: float
    """Of a picture."""


class GameJob(AbstractRowsJob):
    """Plays blocks."""

    kinds = (ScoreRow,)
    options = LocaliseConfig

    def plan(self, config: LocaliseConfig, order: Mapping[str, Any]) -> Play:
        """The game."""
        game = prepare(config)
        check_same(game.to_json(), order["identity"])
        return game

    def begin(self, unit: Block) -> Callable[[Store], Iterator[Sequence[Row]]]:
        """Pictures of a model."""
        game: Play = self.asked

        def rows(own: Store) -> Iterator[Sequence[Row]]:
            size = BatchSize(unit.batch_size)
            for played in play_some(game, own, unit.model, range(unit.start, unit.stop), size):
                yield played.rows

        return rows


def play_by_jobs(kind: type[AbstractJobs], game: Play, store: Store, folder: Path) -> Iterator[Played]:
    """As :func:`play`.

    Args:
        kind: what jobs are submitted to.
        game: what to play.
        store: of the run.
        folder: of the run.
    """
    kind.check_folder(folder)
    jobs = JobFolder(folder)

    def collect() -> None:
        jobs.collect(store, game.digest)

    jobs.open()
    collect()
    done = {name: len(scored(store, name)) for name in game.setting.names}
    yield from (Played(name=name, images=images) for name, images in done.items())
    if sum(done.values()) < game.work:
        order = {"identity": game.to_json()}
        with Dispatch[Block](
            kind, game, jobs=jobs, job=GameJob, order=order, costs=partial(_measured, game)
        ) as dispatch:
            costs = {name: Cost(**cost) for name, cost in dispatch.costs.items()}
            for answer in dispatch.carry_out(lambda: _missing(kind, game, store, costs), collect):
                block = answer.unit
                yield Played(name=block.model, images=block.stop - block.start)
    jobs.clear()


def inventory(folder: Path) -> Inventory:
    """Of a folder that `localise` has written."""
    parts = {}
    for name, count in read_localisation(folder)["pictures"].items():
        done = 0
        if (folder / DATABASE).is_file():
            with Store(folder / DATABASE, kinds=[ScoreRow], reading=True) as store:
                done = len(scored(store, name))
        parts[name] = done, count - done
    results = folder / SUMMARY
    return Inventory(part="model", amount="pictures", parts=parts, results=results if results.is_file() else None)


def _measured(game: Play) -> dict[str, dict[str, Any]]:
    """Costs of every model, by playing one picture."""
    costs = {}
    for name in game.setting.names:
        size, began = batch_size(game, name), perf_counter()
        with Store(kinds=[ScoreRow]) as own:
            for _ in play_some(game, own, name, range(1), BatchSize(1)):
                pass
        costs[name] = vars(Cost(batch_size=size.images, seconds=perf_counter() - began))
    return costs


def _missing(kind: type[AbstractJobs], game: Play, store: Store, costs: Mapping[str, Cost]) -> dict[Block, int]:
    """Blocks that are not done, those that take longest first."""
    found: dict[Block, int] = {}
    workers = kind.workers_for(game)
    for name, cost in costs.items():
        count, done = game.scenes[name].count, scored(store, name)
        pictures = 60 * game.config.job_minutes / cost.seconds
        if workers is not None:
            pictures = min(pictures, count * len(costs) / (BLOCKS_A_WORKER * workers))
        block = cost.batch_size * max(1, int(pictures / cost.batch_size))
        for start in range(0, count, block):
            stop = min(start + block, count)
            if left := stop - start - len(done & set(range(start, stop))):
                one = Block(run=game.digest, model=name, start=start, stop=stop, batch_size=cost.batch_size)
                found[one] = left
    return dict(sorted(found.items(), key=lambda item: (-item[1] * costs[item[0].model].seconds, item[0].name)))
