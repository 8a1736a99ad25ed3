"""Whatever happens to a run, the same command ends with the bytes of a run to which nothing happened."""

import itertools
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from robustbench_bcos.attacks import halts
from robustbench_bcos.attacks.searches.apgd import APGD
from robustbench_bcos.attacks.searches.apgd_targeted import TargetedAPGD
from robustbench_bcos.attacks.searches.autoattack import AutoAttack, Ensemble
from robustbench_bcos.attacks.searches.square import Square
from robustbench_bcos.bench import unfinished
from robustbench_bcos.bench.rows import ModelRow, Row, SimilarityRow, TimingRow, UnfinishedRow
from robustbench_bcos.bench.stages import attack, explain
from robustbench_bcos.bench.store import Store
from tests.cli.command_line import call, same_bytes, succeed

EXPORTS = ("results.csv", "table_l2.csv", "table_linf.csv")
# 8 cells of 5 parts.
OPTIONS = "--norm l2,linf --eps 0.1 --steps 2,4 --limit 10 --batch-size 2 --start random --no-figures --quiet"


class Killed(BaseException):
    """Stands for the end of the process: nothing in it may be caught."""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def sessions(folder: Path) -> int:
    return len(json.loads((folder / "run.json").read_text(encoding="utf-8"))["sessions"])


def committed(folder: Path) -> int:
    """Batches on the disk."""
    try:
        with closing(sqlite3.connect(f"file:{folder / 'run.sqlite'}?mode=ro", uri=True)) as database:
            return int(database.execute("SELECT COUNT(*) FROM timings").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


# Another process


def start(arguments: list[Any]) -> "subprocess.Popen[str]":
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "robustbench_bcos", *map(str, arguments)]
    return subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_until(process: "subprocess.Popen[str]", happened: Callable[[], bool]) -> None:
    while not happened():
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)


def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bytes(command: list[str], tmp_path: Path) -> None:
    # Without evidence, which would take most of the time; sessions that die in it are below.
    folder, whole, command = tmp_path / "run", tmp_path / "whole", [*command[:-1], "--evidence", "off", "--out"]
    succeed(*command, whole)
    for batches in (1, 6):
        process = start([*command, folder])
        wait_until(process, lambda: committed(folder) >= batches)  # noqa: B023 (called at once)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert not (folder / "results.csv").exists()
    succeed(*command, folder)
    same_bytes(folder, whole, EXPORTS)
    assert sessions(folder) == 3
    assert sessions(whole) == 1


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(("jobs", "sent"), [(1, signal.SIGINT), (2, signal.SIGTERM)])
def test_an_interrupted_run_says_how_to_continue_and_another_process_is_refused_meanwhile(
    jobs: int, sent: signal.Signals, command: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    # Slow enough to be caught in the middle: each image of this one withstands many steps.
    slow = [*command, folder, "--eps", "0", "--steps", "300", "--batch-size", "1", "--jobs", jobs]
    process = start(slow)
    try:
        wait_until(process, lambda: committed(folder) >= 1)
        before = (folder / "run.json").read_bytes()
        second = call(*slow)
        assert second.code == 2
        assert second.err == (
            f"error: run {folder} is in use by another process: wait for it, or choose another --out\n"
        )
        assert (folder / "run.json").read_bytes() == before
        process.send_signal(sent)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert out == ""
    assert err.startswith("interrupted after ")
    assert err.endswith(f"images; repeat the same command to continue in {folder}\n")
    assert err.count("\n") == 1
    assert committed(folder) > 0


# At every moment


Wanted = Callable[[type[Row], list[Any]], bool]
"""Whether rows that are about to be written to a table count."""


def dying(number: int, how: str, wanted: Wanted = lambda table, rows: True) -> Callable[..., None]:
    """``Store._insert``, whose call of that number, of those that count, is the last thing that this session does."""
    calls, insert = itertools.count(1), Store._insert

    def replacement(store: Store, table: type[Row], rows: Iterable[Any]) -> None:
        rows = list(rows)
        last = wanted(table, rows) and next(calls) == number
        if last and how == "within":
            rows = rows[: len(rows) // 2]
        if not last or how != "before":
            insert(store, table, rows)
        if last:
            raise Killed

    return replacement


def test_sessions_that_all_die_get_there_in_the_end(
    command: list[str], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    for number, how in zip(itertools.count(1, step=5), itertools.cycle(("before", "within", "after")), strict=False):
        with monkeypatch.context() as fatal:
            fatal.setattr(Store, "_insert", dying(number, how))
            with suppress(Killed):
                succeed(*command, folder)
                break
        assert not (folder / "results.csv").exists()
    same_bytes(folder, whole, EXPORTS)
    assert sessions(folder) > 5


def test_a_session_that_dies_while_it_writes_its_files_is_repeated(
    command: list[str], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    replace = os.replace
    for number in range(1, 6):
        for name in EXPORTS:
            (folder / name).unlink(missing_ok=True)
        calls = itertools.count(1)

        def die(source: Any, target: Any, calls: Iterator[int] = calls, number: int = number) -> None:
            if next(calls) == number:
                raise Killed
            replace(source, target)

        with monkeypatch.context() as fatal:
            fatal.setattr(os, "replace", die)
            with pytest.raises(Killed):
                call(*command, folder)
        succeed(*command, folder)
        same_bytes(folder, whole, EXPORTS)


def test_batches_of_another_size_may_finish_what_was_begun(
    command: list[str], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    with monkeypatch.context() as fatal:
        fatal.setattr(Store, "_insert", dying(20, "within"))
        with pytest.raises(Killed):
            call(*command, folder)
    succeed(*command, folder, "--batch-size", 9)
    same_bytes(folder, whole, EXPORTS)


# In the middle of an attack


@pytest.fixture(scope="module")
def long(tiny_zoo: Path) -> list[str]:
    """One part of one cell, which is attacked by AutoAttack and explained."""
    options = "--attack autoattack --norm linf --eps 8/255 --limit 12 --batch-size 5 --explained 6 --no-figures --quiet"
    return ["run", *options.split(), "--evidence", "off", "--zoo", str(tiny_zoo), "--model", "tiny-natural", "--out"]


@pytest.fixture
def short_members(monkeypatch: pytest.MonkeyPatch) -> None:
    """AutoAttack with few steps, which is recorded at every one of them."""
    members = (APGD(steps=6), TargetedAPGD(steps=4, targets=3), Square(queries=30))
    monkeypatch.setattr(AutoAttack, "ensemble", Ensemble(members=members))
    monkeypatch.setattr(halts, "SECONDS", 0.0)
    monkeypatch.setattr(unfinished, "SECONDS", 0.0)
    monkeypatch.setattr(unfinished, "SHARE", 1e9)
    monkeypatch.setattr(unfinished, "PIECE", 5000)


def halts_of_attacks(seen: list[int]) -> Wanted:
    """When a session writes down where an attack stands; how many pieces it takes is added to ``seen``."""

    def wanted(table: type[Row], rows: list[Any]) -> bool:
        halts = table is UnfinishedRow and bool(rows[0].state)
        seen.extend([len(rows)] * halts)
        return halts

    return wanted


@pytest.mark.usefixtures("short_members")
@pytest.mark.parametrize("how", ["within", "after"])
def test_sessions_that_die_in_the_middle_of_one_attack_get_there_in_the_end(
    how: str, long: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "run"
    halted: list[int] = []
    with monkeypatch.context() as watched:
        watched.setattr(Store, "_insert", dying(10**9, how, halts_of_attacks(halted)))
        succeed(*long, whole)
    # Tensors were cut into pieces, and what is done leaves nothing behind.
    assert max(halted) > 2
    with Store(whole / "run.sqlite") as store:
        assert all(row.state == b"" for row in store.select(UnfinishedRow))
    again: list[int] = []
    for _ in range(200):
        with monkeypatch.context() as fatal:
            fatal.setattr(Store, "_insert", dying(16, how, halts_of_attacks(again)))
            with suppress(Killed):
                succeed(*long, folder)
                break
        assert not (folder / "results.csv").exists()
    assert sessions(folder) > 3
    # No session could have carried out the attack alone, and little was done twice.
    assert len(halted) > 30
    assert len(again) <= len(halted) + 3 * sessions(folder)
    for name in ("results.csv", "images.csv", "explanations.csv"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name


@pytest.mark.usefixtures("short_members")
def test_what_was_left_in_batches_of_another_size_begins_anew(
    long: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "run"
    succeed(*long, whole)
    with monkeypatch.context() as fatal:
        fatal.setattr(Store, "_insert", dying(9, "after", halts_of_attacks([])))
        with pytest.raises(Killed):
            call(*long, folder)
    succeed(*long, folder, "--batch-size", 12)
    same = [one / "results.csv" for one in (folder, whole)]
    assert same[0].read_bytes() == same[1].read_bytes()


@pytest.mark.usefixtures("short_members")
def test_a_damaged_record_of_an_attack_is_named(
    long: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    with monkeypatch.context() as fatal:
        fatal.setattr(Store, "_insert", dying(9, "after", halts_of_attacks([])))
        with pytest.raises(Killed):
            call(*long, folder)
    with closing(sqlite3.connect(folder / "run.sqlite")) as database, database:
        database.execute("UPDATE unfinished SET state = x'00112233' WHERE piece = 0")
    outcome = call(*long, folder)
    assert outcome.code == 2
    assert outcome.err.startswith(f"error: {folder / 'run.sqlite'} is damaged (")
    assert outcome.err.count("\n") == 1


@pytest.mark.usefixtures("short_members")
def test_explanations_take_the_adversarial_examples_that_autoattack_has_found(
    long: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int]] = []
    for stage, module in (("attack", attack), ("explanation", explain)):

        def spy(search: Any, target: Any, stage: str = stage, real: Any = module.search_and_judge, **named: Any) -> Any:
            asked.append((stage, len(target.images)))
            return real(search, target, **named)

        monkeypatch.setattr(module, "search_and_judge", spy)
    succeed(*long, tmp_path / "run")
    with Store(tmp_path / "run" / "run.sqlite") as store:
        (model,) = store.select(ModelRow)
        wrong = sum(not row.correct for row in list(store.clean(model.name).values())[:6])
    attacked = [count for stage, count in asked if stage == "attack"]
    assert sum(attacked) >= 8
    # Only what the model misclassifies without an attack has no example yet.
    assert sum(count for stage, count in asked if stage == "explanation") <= max(wrong, 2) < 4


# Explanations


@pytest.fixture(scope="module")
def explaining(tiny_zoo: Path) -> list[str]:
    """2 cells, of which 3 batches are explained each."""
    options = "--norm l2,linf --eps 0.1 --steps 2 --limit 13 --explained 10 --no-figures --batch-size 4 --start random"
    return ["run", *options.split(), "--quiet", "--zoo", str(tiny_zoo), "--model", "tiny-bcos", "--out"]


@pytest.fixture(scope="module")
def explained(explaining: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of such a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("runs") / "explained"
    succeed(*explaining, folder)
    return folder


def pictures(folder: Path) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"file:{folder / 'run.sqlite'}?mode=ro", uri=True)) as database:
        return database.execute(
            "SELECT cell, image, label, broken, views FROM pictures ORDER BY cell, image"
        ).fetchall()


def explanations_in(table: type[Row]) -> Wanted:
    """When a session writes to a table of explanations."""
    return lambda written, rows: written is table and (table is not TimingRow or rows[0].work == "explanation")


@pytest.mark.parametrize(("table", "how"), [(SimilarityRow, "within"), (TimingRow, "before"), (TimingRow, "after")])
def test_sessions_that_die_at_every_batch_of_explanations_get_there_in_the_end(
    table: type[Row], how: str, explaining: list[str], explained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    for _ in range(5):
        with monkeypatch.context() as fatal:
            fatal.setattr(Store, "_insert", dying(2, how, explanations_in(table)))
            with pytest.raises(Killed):
                call(*explaining, folder)
        assert not (folder / "results.csv").exists()
    succeed(*explaining, folder)
    same_bytes(folder, explained, EXPORTS)
    assert (folder / "explanations.csv").read_bytes() == (explained / "explanations.csv").read_bytes()
    assert pictures(folder) == pictures(explained)
    assert len(pictures(explained)) > 12
    assert sessions(folder) == 6


# Disks


def test_a_damaged_store_is_refused_and_left_alone(command: list[str], whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    file = folder / "run.sqlite"
    damaged = file.read_bytes()[:9000]
    file.write_bytes(damaged)
    for arguments in ([*command, folder], ["report", folder]):
        outcome = call(*arguments)
        assert outcome.code == 2
        assert outcome.err.startswith(f"error: {file} is damaged (")
        assert outcome.err.count("\n") == 1
    assert file.read_bytes() == damaged


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=768k", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("a small disk cannot be mounted here: it takes Linux and root")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_run_goes_on_when_a_full_disk_gets_more_room(command: list[str], whole: Path, small_disk: Path) -> None:
    folder, ballast = small_disk / "run", small_disk / "ballast"
    refused = 0
    # A little more room each time, so that the disk is full at one moment after another.
    for room in range(0, 768, 24):
        ballast.unlink(missing_ok=True)
        status = os.statvfs(small_disk)
        ballast.write_bytes(bytes(max(0, status.f_bavail * status.f_frsize - room * 1024)))
        outcome = call(*command, folder)
        if outcome.code == 0:
            break
        refused += 1
        assert outcome.code == 2
        assert outcome.out == ""
        assert "is full: free some space, then repeat the command to continue\n" in outcome.err
        assert outcome.err.startswith("error: the disk of ")
        assert outcome.err.count("\n") == 1
        assert not list(small_disk.rglob("*.partial"))
    assert refused > 3
    same_bytes(folder, whole, EXPORTS)


def test_a_disk_that_takes_no_writing_is_named(command: list[str], small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    outcome = call(*command, small_disk / "run")
    assert outcome.code == 2
    assert outcome.err == (
        f"error: {small_disk / 'run'} cannot be written (Read-only file system): choose another folder\n"
    )
