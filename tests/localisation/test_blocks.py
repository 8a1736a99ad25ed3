"""A game does not depend on its jobs: how many they are, their order, and what happens to them."""

import json
import operator
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from robustbench_bcos.bench.configured import configured
from robustbench_bcos.bench.executor import Stopped
from robustbench_bcos.bench.job_folder import JobFolder
from robustbench_bcos.bench.store import Store
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.rounding import rounded
from robustbench_bcos.localisation.blocks import Block, play_by_jobs
from robustbench_bcos.localisation.config import LocaliseConfig
from robustbench_bcos.localisation.playing import play
from robustbench_bcos.localisation.rows import ScoreRow
from robustbench_bcos.localisation.setting import Play, prepare
from tests.bench.executors.inline import inline
from tests.bench.tiny_zoo import NAMES, write_tiny_zoo


@pytest.fixture(scope="module")
def game(tmp_path_factory: pytest.TempPathFactory) -> Play:
    zoo = write_tiny_zoo(tmp_path_factory.mktemp("zoo"))
    asked = {"zoo": (zoo,), "model": NAMES, "eps": "0.5", "norm": "l2", "steps": (1,), "grids": 5, "device": "cpu"}
    return prepare(configured(LocaliseConfig, asked | {"batch_size": 2, "limit": 120, "job_minutes": 1e-9}))


def by_jobs(game: Play, folder: Path, **settings: Any) -> tuple[Any, Counter[str], list[Block]]:
    """Scores, pictures that were told to be done by model, and blocks in the order of their jobs."""
    folder.mkdir(exist_ok=True)
    kind = inline(**settings)
    with Store(folder / "run.sqlite", kinds=[ScoreRow]) as store:
        told: Counter[str] = Counter()
        for played in play_by_jobs(kind, game, store, folder):
            told[played.model] += played.images
        store.verify()
        return store.select(ScoreRow), told, kind.seen


def test_digits_that_are_written_do_not_depend_on_the_batch_size(game: Play) -> None:
    found = []
    for size in (1, 5):
        asked = game.config.model_dump(exclude_unset=True) | {"batch_size": size}
        with Store(kinds=[ScoreRow]) as store:
            for _ in play(prepare(LocaliseConfig.model_validate(asked)), store):
                pass
            found.append([row.score for row in store.select(ScoreRow)])
    alone, together = found
    # What lies at the edge between two numbers of four digits may be rounded to either.
    assert together == pytest.approx(alone, rel=1e-3 + 1e-6)
    assert sum(map(operator.ne, alone, together)) <= 1
    assert alone == [rounded(score, 4) for score in alone if score is not None]


def test_whatever_happens_to_jobs_scores_are_those_of_one_process(game: Play, tmp_path: Path) -> None:
    def faults(job: Any, unit: Block, number: int) -> None:
        """Killed, stopped on the way, or answered twice, whatever the picture's number says."""

        def stop() -> None:
            raise Stopped

        kind = unit.start // 2
        if kind == 0 and number == 0:
            return
        if kind == 1 and number == 0:
            with pytest.raises(Stopped):
                job.carry_out(unit, stop)
            return
        job.carry_out(unit)
        if kind == 2:
            job.carry_out(unit)

    with Store(kinds=[ScoreRow]) as store:
        for _ in play(game, store):
            pass
        whole = store.select(ScoreRow)
    found, _, seen = by_jobs(game, tmp_path / "run", fault=faults, order_of=lambda units: list(reversed(units)))
    assert found == whole
    blocks = {(unit.model, unit.start, unit.stop) for unit in seen}
    assert blocks == {(name, *block) for name in NAMES for block in ((0, 2), (2, 4), (4, 5))}
    assert not list((tmp_path / "run" / "jobs").iterdir())
    again = by_jobs(game, tmp_path / "run")
    assert again == (whole, dict.fromkeys(NAMES, 5), [])


def test_jobs_that_would_play_another_game_say_what_is_different(game: Play, tmp_path: Path) -> None:
    def elsewhere(job: Any, unit: Block, number: int) -> None:
        file = job.jobs.path / "order.json"
        told = json.loads(file.read_text(encoding="utf-8"))
        told["identity"] |= {"weights": {}, "torch": "1.0"}
        del told["digest"]
        other = type(job)(job.jobs.run, JobFolder(job.jobs.run).order(told))
        other.carry_out(unit)

    with pytest.raises(RequestError, match=r"^weights on .* and where the work was submitted are not"):
        by_jobs(game, tmp_path / "run", fault=elsewhere, jobs_at_once=1)
