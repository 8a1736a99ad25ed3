"""A run is the same whoever carries it out, in how many pieces, in which order, and whatever happens to jobs."""

import itertools
import json
import os
import shutil
import sqlite3
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from robustbench_bcos.attacks import NORMS
from robustbench_bcos.bench import certified, run_job
from robustbench_bcos.bench.dispatch import ATTEMPTS
from robustbench_bcos.bench.executor import Stopped
from robustbench_bcos.bench.job_folder import JobFolder
from robustbench_bcos.bench.request import Request
from robustbench_bcos.bench.run_job import RunJob
from robustbench_bcos.bench.runner import execute
from robustbench_bcos.bench.stages import distances
from robustbench_bcos.bench.store import Store
from robustbench_bcos.bench.submitter import Submitter
from robustbench_bcos.bench.units import Costs, Unit
from robustbench_bcos.certificates.certifier import CannotBound, Certifier
from robustbench_bcos.core.errors import Broken, Interrupted, RequestError
from tests.bench.executors.inline import Inline, do, found, inline, measured
from tests.bench.own_request import TwoSides, own_request
from tests.bench.tiny_zoo import tiny_request

ASKED: dict[str, Any] = {"eps": "0.5", "steps": (1, 2), "limit": 10, "batch_size": 1, "start": "random"}
LATER: dict[str, Any] = {"limit": 3, "steps": (1,)}
EXPLAINED: dict[str, Any] = {"evidence": "quick", "explained": 2, "goal": ("explanation:away",)}
MEASURED: dict[str, Any] = {"distances": True, "model": "tiny-natural", "limit": 2}
SMOOTHED: dict[str, Any] = {"certify": ("smoothing", "sparsified_maps"), "certify_draws": 10, "model": "tiny-bcos"}


@pytest.fixture(autouse=True)
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass of an image is said to take so long that no part fits into a job beside another."""
    monkeypatch.setattr(Costs, "of", classmethod(lambda cls, *_: cls(batch_size=1, pass_seconds=100.0)))


@pytest.fixture(scope="module")
def asked(tiny_zoo: Path) -> Request:
    return tiny_request(tiny_zoo, **ASKED)


def by_one_process(request: Request) -> dict[str, Any]:
    with Store() as store:
        for _ in execute(request, store):
            pass
        return found(request, store)


@pytest.fixture(scope="module")
def whole(asked: Request) -> dict[str, Any]:
    """What one process finds."""
    return by_one_process(asked)


def killed(job: RunJob, unit: Unit, number: int) -> None:
    """Its first attempt leaves nothing."""
    if number:
        job.carry_out(unit)


def stopped(job: RunJob, unit: Unit, number: int) -> None:
    """Its first attempts are stopped after their third and fifth pieces of work, and show what they have."""

    steps = itertools.count(1)

    def stop() -> None:
        if number < 2 and next(steps) == 3 + 2 * number:
            raise Stopped

    try:
        job.carry_out(unit, stop)
    except Stopped:
        assert job.jobs.parts(unit)


def twice(job: RunJob, unit: Unit, number: int) -> None:
    job.carry_out(unit)
    job.carry_out(unit)


def files(job: RunJob, unit: Unit) -> list[Path]:
    return sorted(job.jobs.path.glob(f"{unit.name}.*.whole"))


def truncated(job: RunJob, unit: Unit, number: int) -> None:
    job.carry_out(unit)
    if not number:
        (file,) = files(job, unit)
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def altered(job: RunJob, unit: Unit, number: int) -> None:
    """A number says something else than what was measured."""
    job.carry_out(unit)
    if not number:
        (file,) = files(job, unit)
        with closing(sqlite3.connect(file)) as database, database:
            database.execute("UPDATE verdicts SET success = 1 - success")


def damaged_and_sound(job: RunJob, unit: Unit, number: int) -> None:
    """It answers twice, and one of the answers is empty."""
    job.carry_out(unit)
    (file,) = files(job, unit)
    file.with_name(f"{unit.name}.00000000.whole").write_bytes(b"")


PLUGIN = """
from robustbench_bcos.attacks import NORMS
from robustbench_bcos.attacks.norms.l2 import L2

NORMS.registered("mine")(type("Mine", (L2,), {}))
"""

FAULTS = [do, killed, stopped, twice, truncated, altered, damaged_and_sound]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_whatever_happens_to_every_job_the_run_is_the_same(
    fault: Any, asked: Request, whole: dict[str, Any], tmp_path: Path
) -> None:
    kind = inline(fault=fault)
    assert measured(asked, tmp_path / "run", kind) == whole
    parts = [unit for unit in kind.seen if unit.stage == "attack"]
    assert len({unit.start for unit in parts}) == 3, "10 images, of which a part has 4 batches of 1"
    assert len(kind.seen) > len(set(kind.seen)) or fault in (do, twice, damaged_and_sound)
    assert not list((tmp_path / "run" / "jobs").iterdir()), "nothing is left but logs"


@pytest.mark.parametrize(
    ("at_once", "order"),
    [(1, list), (2, reversed), (7, lambda units: units[1:] + units[:1])],
    ids=["as they are", "backwards", "turned"],
)
def test_number_and_order_of_jobs_change_nothing(
    at_once: int, order: Callable[..., Any], asked: Request, whole: dict[str, Any], tmp_path: Path
) -> None:
    kind = inline(jobs_at_once=at_once, order_of=lambda units: list(order(units)))
    assert measured(asked, tmp_path / "run", kind) == whole


def unbounded(classifier: nn.Module) -> Certifier:
    raise CannotBound(type(classifier).__name__)


@pytest.mark.parametrize(
    ("asked", "units"),
    [
        (EXPLAINED, {"attack": 2, "explain": 2, "evidence": 2, "fool": 2}),
        (MEASURED, {"attack": 1, "distances": 2}),
        (SMOOTHED, {"attack": 1, "certify": 3}),
    ],
    ids=["explained", "measured", "smoothed"],
)
def test_later_stages_by_jobs_find_the_same(
    asked: dict[str, Any], units: dict[str, int], tiny_zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A look at each distance, and no search to the end.
    for name, fewer in {"FEWEST_STEPS": 2, "REPEATED": 1, "TRIES": 1, "DOUBLINGS": 2}.items():
        monkeypatch.setattr(distances, name, fewer)
    # Bounds of a convolutional network take seconds; what jobs find of them is distances all the same.
    monkeypatch.setattr(certified, "Certifier", unbounded)
    request = tiny_request(tiny_zoo, **ASKED | LATER | asked)
    kind = inline(order_of=lambda units: list(reversed(units)))
    assert measured(request, tmp_path / "run", kind) == by_one_process(request)
    assert Counter(unit.stage for unit in kind.seen) == units
    assert all(unit.stage == "attack" for unit in kind.seen[: units["attack"]]), "what the other stages need"


def test_a_run_that_one_process_has_begun_is_finished_by_jobs_and_the_other_way_round(
    asked: Request, whole: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with Store(folder / "run.sqlite") as store:
        begun = execute(asked, store)
        for _ in range(3):
            next(begun)
        begun.close()
    kind = inline(fault=lambda job, unit, number: do(job, unit, number) if unit.start else None)
    with pytest.raises(Broken, match=r"4 jobs have ended without an answer in attack of .*, images 0 to 3 of"):
        measured(asked, folder, kind)
    with Store(folder / "run.sqlite") as store:
        for _ in execute(asked, store):
            pass
        assert found(asked, store) == whole
    again = inline()
    assert measured(asked, folder, again) == whole
    assert again.seen == []


def test_what_earlier_sessions_left_in_files_is_not_repeated(
    asked: Request, whole: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "run"

    def dies(job: RunJob, unit: Unit, number: int) -> None:
        job.carry_out(unit)
        if len(first.seen) == 4:
            raise KeyboardInterrupt

    first, second = inline(fault=dies), inline()
    with pytest.raises(KeyboardInterrupt):
        measured(asked, folder, first)
    assert measured(asked, folder, second) == whole
    assert not set(first.seen) & set(second.seen)


def test_files_of_another_run_are_never_taken_for_this_one(
    asked: Request, whole: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    (folder / "jobs").mkdir(parents=True)
    (folder / "jobs" / "00000000-attack-tiny-bcos-000000000000.11111111.whole").write_bytes(b"something else")
    assert measured(asked, folder, inline()) == whole


def test_what_is_no_file_is_no_answer(asked: Request, whole: dict[str, Any], tmp_path: Path) -> None:
    """A pipe would be waited for, a folder cannot be removed like a file, and a link leads to somebody's file."""
    outside = tmp_path / "outside"
    outside.write_bytes(b"theirs")
    makers: list[Callable[[Path], None]] = [os.mkfifo, Path.mkdir, lambda answer: answer.symlink_to(outside)]

    def planted(job: RunJob, unit: Unit, number: int) -> None:
        if number:
            job.carry_out(unit)
            return
        for ending, make in itertools.product(("whole", "part", "failed"), makers):
            make(job.jobs.path / f"{unit.name}.{makers.index(make)}.{ending}")

    assert measured(asked, tmp_path / "run", inline(fault=planted)) == whole
    assert outside.read_bytes() == b"theirs"


def test_an_order_that_was_changed_is_written_anew(asked: Request, whole: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(Broken):
        measured(asked, folder, inline(fault=lambda *_: None))
    told, earlier = order_of(folder), JobFolder(folder).earlier_order()
    assert earlier
    for change in ({"costs": {}}, {"digest": None}, {"costs": {"tiny-bcos": {"batch_size": 0}}}):
        (folder / "jobs" / "order.json").write_text(json.dumps(told | change), encoding="utf-8")
        assert JobFolder(folder).earlier_order() == {}
    assert measured(asked, folder, inline()) == whole


def test_jobs_of_a_run_are_not_those_of_its_copy(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "jobs").mkdir(parents=True)
    JobFolder(folder).record("inline", [])
    assert JobFolder(folder).submitted() == ("inline", {})
    shutil.copytree(folder, tmp_path / "copy")
    assert JobFolder(tmp_path / "copy").submitted() == ("", {})


def test_cancelling_writes_through_no_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "jobs").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RequestError, match="is a link, and nothing is written through links"):
        JobFolder(tmp_path / "run").cancel()


def test_a_unit_that_nobody_answers_ends_the_run_with_where_the_logs_are(asked: Request, tmp_path: Path) -> None:
    kind = inline(fault=lambda *_: None)
    with pytest.raises(Broken, match=rf"{ATTEMPTS} jobs have ended without an answer in attack of tiny-.*jobs/logs"):
        measured(asked, tmp_path / "run", kind)
    with Store(tmp_path / "run" / "run.sqlite") as store:
        assert not any(store.done(cell) for cell in asked.cells)


def test_cancelling_ends_what_is_submitted_and_loses_nothing(
    asked: Request, whole: dict[str, Any], tmp_path: Path
) -> None:
    def cancels(job: RunJob, unit: Unit, number: int) -> None:
        job.carry_out(unit)
        JobFolder(tmp_path / "run").cancel()

    with pytest.raises(Interrupted, match="cancelled; repeat the same command"):
        measured(asked, tmp_path / "run", inline(fault=cancels, jobs_at_once=1))
    assert measured(asked, tmp_path / "run", inline()) == whole


# What differs where jobs are


def order_of(folder: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((folder / "jobs" / "order.json").read_text(encoding="utf-8"))
    return told


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda order: order.update(code="0" * 64), "robustbench_bcos on .* has another code than where the work"),
        (lambda order: order.update(directory="/nowhere/at/all"), "has no folder /nowhere/at/all, where the work"),
        (lambda order: order["identity"].update(torch="1.0"), "torch is .* on .* and 1.0 where the work was submitted"),
        (lambda order: order["identity"].update(version="0.0"), "version is .* on .* and 0.0 where the work"),
        (lambda order: order["identity"].update(device="cuda"), "device is cpu on .* and cuda where the work"),
        (
            lambda order: order["identity"]["weights"].update({"tiny-natural": "f" * 64, "tiny-bcos": "f" * 64}),
            "the weights of model 'tiny-.*' on .* are others than where the run was submitted",
        ),
        (lambda order: order.update(images={}), "image .* is not the one that the run began with"),
        (lambda order: order["configuration"].update(zoo=["/nowhere"]), "/nowhere"),
        (
            lambda order: order["configuration"].update(plugin=["mine.py"], plugin_digests={"mine.py": "0"}),
            "plugin mine.py on .* is missing or another one",
        ),
    ],
    ids=["code", "directory", "torch", "version", "device", "weights", "images", "zoo", "plugin"],
)
def test_a_job_that_would_do_something_else_says_what_differs(
    change: Callable[[dict[str, Any]], None], said: str, asked: Request, tmp_path: Path
) -> None:
    class Elsewhere(Inline):
        def __init__(self, asked: Any, jobs: JobFolder, order: str, job: Any) -> None:
            told = order_of(jobs.run)
            change(told)
            super().__init__(asked, jobs, jobs.order(told), job)

    with pytest.raises(RequestError, match=said):
        measured(asked, tmp_path / "run", Elsewhere)


def test_a_job_that_does_not_see_what_was_written_says_so(asked: Request, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"does not see .*order.json as it was written: give --out a folder"):
        JobFolder(tmp_path).read_order("0" * 64, patience=0.0)


def test_a_job_waits_for_what_others_have_found_and_says_if_it_never_sees_it(
    tiny_zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_job, "LATE", 0.0)
    request = tiny_request(tiny_zoo, limit=2, explained=1, model="tiny-natural")

    def too_early(job: RunJob, unit: Unit, number: int) -> None:
        early = replace(unit, stage="explain")
        job.carry_out(early)
        raise job.jobs.failure(early)

    with pytest.raises(RequestError, match=r"does not see what other jobs have found in .*run\.sqlite"):
        measured(request, tmp_path / "run", inline(fault=too_early))


def test_an_error_in_a_job_is_told_and_its_traceback_kept(asked: Request, tmp_path: Path) -> None:
    def fails(job: RunJob, unit: Unit, number: int) -> None:
        def check() -> None:
            raise KeyError("strange")

        job.carry_out(unit, check)

    with pytest.raises(Broken, match=r"a job on .* failed in attack of .*KeyError: 'strange'.*: its traceback is in"):
        measured(asked, tmp_path / "run", inline(fault=fails, jobs_at_once=1))
    (file,) = (tmp_path / "run" / "jobs").glob("*.failed")
    assert "in check" in json.loads(file.read_text(encoding="utf-8"))["details"]


@pytest.mark.usefixtures("registries")
def test_names_of_plugins_are_known_to_jobs(tiny_zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(PLUGIN, encoding="utf-8")
    request = tiny_request(tiny_zoo, limit=2, model="tiny-natural", plugin=("mine.py",), norm="mine", eps="0.5")

    def as_in_a_process_of_its_own(job: RunJob, unit: Unit, number: int) -> None:
        for registry in (NORMS._entries, sys.modules):
            for name in [name for name in registry if name == "mine" or name.startswith("robustbench_bcos_plugin_")]:
                del registry[name]  # type: ignore[attr-defined]
        job.carry_out(unit)

    kind = inline(fault=as_in_a_process_of_its_own)
    assert measured(request, tmp_path / "run", kind) == by_one_process(request)


def test_objects_cannot_be_sent_to_jobs(tmp_path: Path) -> None:
    images, labels = torch.rand(2, 3, 4, 5), torch.tensor([0, 1])
    request = own_request({"mine": TwoSides(np.ones(60), 0.0)}, images, labels, 2, eps="0.1")
    with Store() as store, pytest.raises(RequestError, match="model 'mine' is an object of this process"):
        Submitter(Inline, request, store, tmp_path)
