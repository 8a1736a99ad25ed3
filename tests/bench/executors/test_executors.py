"""What each executor needs, refuses and starts; and the same bytes from all of them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from robustbench_bcos.bench.configured import make_config
from robustbench_bcos.bench.evaluation import evaluate
from robustbench_bcos.bench.executor import AbstractJobs
from robustbench_bcos.bench.executors import EXECUTORS, processes
from robustbench_bcos.bench.executors import slurm as slurms
from robustbench_bcos.bench.executors.slurm import Slurm, minutes_of, slurm_options
from robustbench_bcos.bench.job import AbstractJob
from robustbench_bcos.bench.job_folder import JobFolder
from robustbench_bcos.bench.status import inventory
from robustbench_bcos.bench.store import Store
from robustbench_bcos.bench.units import FEWEST, Costs, Plan
from robustbench_bcos.core.errors import RequestError
from tests.bench.tiny_zoo import NAMES, tiny_request
from tests.cli.command_line import call, refusal, same_bytes, succeed

OPTIONS = "--norm l2 --eps 0.5 --steps 1,2 --limit 10 --batch-size 1 --start random --no-figures --evidence off --quiet"
EXPORTS = ("results.csv", "images.csv", "table_l2.csv")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# Real processes: each costs a second to start.


def test_processes_that_are_killed_change_nothing(command: list[str], whole: Path, tmp_path: Path) -> None:
    """Of the command itself, beside which no other one works; and then workers of the command that goes on."""
    folder = tmp_path / "run"
    line = [*command, folder, "--executor", "processes", "--jobs", "2", "--job-minutes", "1e-6"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    started = [sys.executable, "-m", "robustbench_bcos", *map(str, line)]
    with subprocess.Popen(started, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while not list(folder.glob("jobs/*.whole")):
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        # It would be done before a second command has found out that there is a first.
        process.send_signal(signal.SIGSTOP)
        for executor in ("processes", "local"):
            assert refusal(*line, "--executor", executor) == (
                f"run {folder} is in use by another process: wait for it, or choose another --out"
            )
        process.kill()
    assert not (folder / "results.csv").exists()
    said = succeed("run", "--status", folder)
    assert "No process is at work on it: the same command continues it" in said
    # What is not merged is shown as missing, and as nothing else.
    assert set(inventory(folder).parts.values()) == {(0, 10)}
    with ThreadPoolExecutor(1) as beside:
        killing = beside.submit(kill_workers, folder, 3)
        succeed(*line)
    assert killing.result() == 3
    same_bytes(folder, whole, EXPORTS)
    assert "Complete: its results are in" in succeed("run", "--status", folder)


def kill_workers(folder: Path, wanted: int) -> int:
    """So many workers of a run, one after another; gives how many it was until the run was complete."""
    killed: set[int] = set()
    while len(killed) < wanted and not (folder / "results.csv").exists():
        for log in folder.glob("jobs/logs/*/worker-*.txt"):
            number = int(log.stem.partition("-")[2])
            if number not in killed and len(killed) < wanted and alive(number):
                os.kill(number, signal.SIGKILL)
                killed.add(number)
        time.sleep(0.01)
    return len(killed)


def alive(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True


def test_submitit_in_this_process_and_in_others(command: list[str], tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    one = [*command[:-1], "--model", NAMES[0], "--limit", "4", "--jobs", "1", "--job-minutes", "1e-6", "--out"]
    for name in ("local", "debug", "submitit"):
        succeed(*one, tmp_path / name, "--executor", name)
        same_bytes(tmp_path / name, tmp_path / "local", EXPORTS)


@pytest.mark.parametrize(
    ("flags", "workers", "size", "units"),
    [
        ({}, 2, FEWEST, 3),
        ({}, 1, 46, 2),
        ({}, None, 256, 1),
        ({"batch_size": 200}, 2, 200, 1),
    ],
)
def test_each_worker_has_something_to_do(
    flags: dict[str, Any], workers: int | None, size: int, units: int, tiny_zoo: Path, store: Store
) -> None:
    request = tiny_request(tiny_zoo, limit=364, **flags)
    costs = {source.name: Costs.of(request, source, store, workers) for source in request.sources}
    assert {cost.batch_size for cost in costs.values()} == {size}
    plan = Plan(request=request, costs=costs, run="", seconds=1e9, workers=workers)
    assert Counter(one.unit.model for one in plan.missing(("attack",), store)) == dict.fromkeys(NAMES, units)


# What is refused, in one sentence


def test_an_executor_that_is_unknown_is_refused_with_those_there_are() -> None:
    assert refusal("run", "--eps", "0.5", "--executor", "slrum").startswith(
        "unknown executor 'slrum': did you mean 'slurm'?"
    )


@pytest.mark.parametrize("name", [name for name in EXECUTORS if name not in ("local", "processes")])
def test_without_submitit_the_extra_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robustbench_bcos.bench.executor.find_package", lambda _: None)
    monkeypatch.setattr(shutil, "which", lambda command: command)
    assert refusal("run", "--eps", "0.5", "--executor", name) == (
        f"executor {name} needs submitit, which is not installed: pip install submitit (the extra cluster of this "
        "package)"
    )


def test_without_slurm_its_commands_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda command: None)
    assert refusal("run", "--eps", "0.5", "--executor", "slurm") == (
        "executor slurm needs Slurm's commands, and sbatch is not on PATH: call it where jobs are submitted, or use "
        "processes"
    )


@pytest.mark.parametrize(("asked", "said"), [("partition", "KEY=VALUE"), ("time=soon", "no time limit")])
def test_what_slurm_cannot_be_told_is_refused(asked: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda command: command)
    assert said in refusal("run", "--eps", "0.5", "--executor", "slurm", "--slurm", asked)


def test_options_of_slurm_go_with_slurm() -> None:
    assert refusal("run", "--eps", "0.5", "--slurm", "partition=gpu").startswith("slurm says what jobs of slurm get")


def test_a_value_of_slurm_may_have_commas() -> None:
    config = make_config({"eps": "0.5", "slurm": ("partition=a", "b", "gres=gpu:2", "cpus_per_task=4")})
    assert slurm_options(config) == {"partition": "a,b", "gres": "gpu:2", "cpus-per-task": "4"}


@pytest.mark.parametrize(
    ("limit", "minutes"),
    [("60", 60), ("90:30", 91), ("2:00:00", 120), ("1-0", 1440), ("1-12", 2160), ("1-00:30", 1470), ("0:10", 1)],
)
def test_time_limits_are_read_as_sbatch_reads_them(limit: str, minutes: int) -> None:
    assert minutes_of(limit) == minutes


def test_a_folder_that_other_machines_do_not_see_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def said(command: list[str]) -> str:
        return "node1\nnode2\n" if command[0] == "sinfo" else ""

    monkeypatch.setattr(slurms, "_said", said)
    with pytest.raises(RequestError, match="in a folder that every machine has for itself"):
        Slurm.check_folder(Path("/tmp/runs/mine"))
    Slurm.check_folder(Path("/home/me/runs/mine"))


@pytest.mark.parametrize(
    ("device", "slurm", "expected"),
    [("auto", ("gres=gpu:1",), "cuda"), ("auto", ("partition=cpu",), None), ("cuda", (), "cuda"), ("cpu", (), None)],
)
def test_jobs_may_have_a_gpu_that_the_submitter_lacks(
    device: str, slurm: tuple[str, ...], expected: str | None, tiny_zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    request = tiny_request(tiny_zoo, limit=2, executor="slurm", device=device, slurm=slurm)
    assert request.elsewhere == expected
    assert request.device == "cpu"
    assert request.identity.device == (expected or "cpu")


@pytest.mark.parametrize("visible", ["4,6,7", ""], ids=["some", "all"])
def test_each_gpu_of_a_node_has_a_process_of_its_own(
    visible: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    given: list[str] = []

    def hire(*order: Any, gpu: str, **others: Any) -> Any:
        given.append(gpu)
        return SimpleNamespace(gpu=gpu)

    monkeypatch.setattr(processes, "_Worker", hire)
    asked: Any = SimpleNamespace(config=make_config({"eps": "0.5"}), device="cuda", digest="00000000")
    team = processes.Processes(asked, JobFolder(tmp_path), "order", AbstractJob)
    assert team.workers == 3
    for _ in range(6):
        team._new()
    assert given == 2 * (["4", "6", "7"] if visible else ["0", "1", "2"])


def test_models_in_memory_are_not_for_jobs() -> None:
    with pytest.raises(RequestError, match="executor is about models and images that have names"):
        evaluate(lambda images: images, [], executor="processes")  # type: ignore[call-arg, arg-type, call-overload]


# What a person asks


def test_status_and_cancel_are_about_a_run_that_there_is(whole: Path, tmp_path: Path) -> None:
    assert refusal("run", "--status", tmp_path / "nothing").startswith(f"{tmp_path / 'nothing'} is not a run")
    assert refusal("run", "--cancel", whole) == f"nothing of {whole} is submitted: there is nothing to cancel"
    assert refusal("run", "--status", whole, "--eps", "0.5").startswith("--status and --cancel are about a folder")


def test_status_says_of_every_unit_where_it_is(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    (folder / "results.csv").unlink()
    (folder / "run.lock").unlink()
    (folder / "jobs").mkdir()
    units = {name: {"is": f"attack of {name}", "job": ""} for name in ("a", "b", "c", "d")}
    told = {"executor": "processes", "folder": str(folder.resolve()), "units": units}
    (folder / "jobs" / "submitted.json").write_text(json.dumps(told), encoding="utf-8")
    for name in ("a.1.whole", "b.1.part", "c.1.failed", "c.1.part"):
        (folder / "jobs" / name).touch()
    said = succeed("run", "--status", folder)
    for name, state in {
        "a": "answered, and not merged yet",
        "b": "partly answered",
        "c": "failed",
        "d": "not answered",
    }.items():
        assert any(f"attack of {name}" in line and state in line for line in said.splitlines()), said
    assert "No process is at work on it" in said
    assert not (folder / "run.lock").exists(), "an archive cannot be written"


def test_a_job_is_named_by_slurm_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name comes from a file, and scancel would take it for an option."""
    monkeypatch.setattr(slurms, "_said", lambda _: None)
    assert [Slurm.find(name) for name in ("--user=root", "-t PENDING", "1 2", "")] == [None] * 4
    assert Slurm.find("12_3") is not None


@pytest.mark.parametrize("name", [name for name in EXECUTORS if issubclass(EXECUTORS[name], AbstractJobs)])
def test_dry_runs_need_no_jobs(name: str, command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda command: command)
    monkeypatch.setattr("robustbench_bcos.bench.executor.find_package", lambda _: True)
    outcome: Any = call(*command, tmp_path / "run", "--executor", name, "--dry-run")
    assert outcome.code == 0
    assert not (tmp_path / "run").exists()
