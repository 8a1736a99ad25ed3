"""Jobs of a real Slurm, which is started for these tests: ``pytest -m slurm``.

They run wherever Slurm can be started (:mod:`tests.bench.executors.slurm_node` says what that takes) and are asked for,
because they take minutes.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.bench.executors.slurm_node import slurm_node, why_not
from tests.bench.tiny_zoo import NAMES, write_tiny_zoo
from tests.cli.command_line import same_bytes

pytestmark = [pytest.mark.slurm, pytest.mark.skipif(bool(why_not()), reason=why_not())]

OPTIONS = "--norm l2 --eps 0.5 --steps 1,2 --limit 12 --batch-size 1 --start random --no-figures --evidence off --quiet"
EXPORTS = ("results.csv", "images.csv", "table_l2.csv")


@pytest.fixture(scope="module")
def slurm() -> Iterator[Mapping[str, str]]:
    with slurm_node(cpus=2, array=5) as variables:
        yield os.environ | variables | {"PYTHONPATH": str(Path(__file__).parents[3])}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("cluster")
    (made / "zoo").mkdir()
    write_tiny_zoo(made / "zoo")
    return made


def command(out: str, *more: str) -> list[str]:
    line = ["run", *OPTIONS.split(), "--zoo", "zoo", "--model", ",".join(NAMES), "--out", out, *more]
    return [sys.executable, "-m", "robustbench_bcos", *line]


SLURM = ("--executor", "slurm", "--job-minutes", "1e-6")


def carried_out(line: list[str], folder: Path, environment: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        line, cwd=folder, env=dict(environment), capture_output=True, text=True, timeout=600, check=False
    )


@pytest.fixture(scope="module")
def whole(folder: Path, slurm: Mapping[str, str]) -> Path:
    done = carried_out(command("whole"), folder, slurm)
    assert done.returncode == 0, done.stderr
    return folder / "whole"


def said(line: str, environment: Mapping[str, str]) -> str:
    return subprocess.run(
        line.split(), env=dict(environment), capture_output=True, text=True, timeout=60, check=False
    ).stdout


def test_jobs_in_arrays_that_all_kinds_of_things_happen_to(folder: Path, whole: Path, slurm: Mapping[str, str]) -> None:
    """Killed, cancelled, told of a time limit, and their machine drained, at random; a second submitter is refused."""
    chance = random.Random(0)
    harmed: dict[str, int] = {"kill": 0, "cancel": 0, "signal": 0, "drain": 0}
    host = said("sinfo -h -N -o %n", slurm).strip()
    with subprocess.Popen(command("run", *SLURM), cwd=folder, env=dict(slurm)) as process:
        second = ""
        while process.poll() is None:
            time.sleep(1)
            jobs = [line.split("|") for line in said("squeue -h -r -o %i|%T", slurm).splitlines()]
            # submitit puts off for two minutes what it puts into the queue again.
            for job, state in jobs:
                if state == "PENDING" and sum(harmed.values()):
                    said(f"scontrol update JobId={job} StartTime=now", slurm)
            running = [job for job, state in jobs if state == "RUNNING"]
            if running and not second:
                second = carried_out(command("run", *SLURM), folder, slurm).stderr
            if not running or sum(harmed.values()) >= 8:
                continue
            how, job = min(harmed, key=lambda one: (harmed[one], one)), chance.choice(running)
            harmed[how] += 1
            if how == "kill":
                said(f"scancel --signal=KILL --full {job}", slurm)
            elif how == "cancel":
                said(f"scancel {job}", slurm)
            elif how == "signal":
                said(f"scancel --signal=USR2 {job}", slurm)
            else:
                said(f"scontrol update NodeName={host} State=DRAIN Reason=test", slurm)
                said(f"scontrol requeue {job}", slurm)
                said(f"scontrol update NodeName={host} State=RESUME", slurm)
    assert process.returncode == 0
    assert min(harmed.values()) >= 1, harmed
    assert "is in use by another process" in second
    same_bytes(folder / "run", whole, EXPORTS)
    nothing_is_left(slurm)


def nothing_is_left(slurm: Mapping[str, str]) -> None:
    """Jobs that have answered, too, end; in their time."""
    until = time.monotonic() + 60
    while said("squeue -h -r -o %i", slurm):
        assert time.monotonic() < until
        time.sleep(0.5)


def test_the_submitter_may_end_before_its_jobs_and_finds_them_again(
    folder: Path, whole: Path, slurm: Mapping[str, str]
) -> None:
    line = command("left", *SLURM)
    with subprocess.Popen(line, cwd=folder, env=dict(slurm)) as process:
        while not said("squeue -h -r -o %i", slurm):
            assert process.poll() is None
            time.sleep(0.5)
        process.kill()
    before = said("squeue -h -r -o %i", slurm).split()
    status = carried_out([sys.executable, "-m", "robustbench_bcos", "run", "--status", "left"], folder, slurm)
    assert "No process is at work on it" in status.stdout
    assert any(job in status.stdout for job in before)
    done = carried_out(line, folder, slurm)
    assert done.returncode == 0, done.stderr
    same_bytes(folder / "left", whole, EXPORTS)


def test_cancelling_ends_jobs_and_submitter(folder: Path, slurm: Mapping[str, str]) -> None:
    with subprocess.Popen(
        command("cancelled", *SLURM), cwd=folder, env=dict(slurm), stderr=subprocess.PIPE, text=True
    ) as process:
        while not said("squeue -h -r -o %i", slurm):
            time.sleep(0.5)
        done = carried_out([sys.executable, "-m", "robustbench_bcos", "run", "--cancel", "cancelled"], folder, slurm)
        assert done.returncode == 0, done.stderr
        _, error = process.communicate(timeout=120)
    assert process.returncode == 130
    assert error.startswith("cancelled; repeat the same command")
    nothing_is_left(slurm)


def test_a_partition_that_does_not_exist_is_refused(folder: Path, slurm: Mapping[str, str]) -> None:
    done = carried_out(command("refused", *SLURM, "--slurm", "partition=nosuch"), folder, slurm)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: slurm refuses the jobs (sbatch: error: ")
    assert done.stderr.strip().endswith("correct --slurm")
    assert done.stderr.count("\n") == 1


SUITE = """
description = "two"
norm = ["l2"]
eps = ["0.5"]
steps = [1]
[trainings]
recipe = "digits-natural"
seeds = [0]
all = { epochs = 30 }
[trainings.variations]
"plain" = {}
"layered" = { arguments.norm = "layer" }
"""


def test_trainings_whose_jobs_and_submitter_are_killed(folder: Path, slurm: Mapping[str, str]) -> None:
    (folder / "two.toml").write_text(SUITE, encoding="utf-8")
    line = [sys.executable, "-m", "robustbench_bcos", "train", "--suite", "two.toml", "--out"]
    alone = carried_out([*line, "alone"], folder, slurm)
    assert alone.returncode == 0, alone.stderr
    line += ["zoo", "--executor", "slurm"]
    with subprocess.Popen(line, cwd=folder, env=dict(slurm)) as process:
        while not list((folder / "zoo").glob("*.ckpt")):
            assert process.poll() is None
            time.sleep(0.2)
        # It would be done before a second command has found out that there is a first.
        process.send_signal(signal.SIGSTOP)
        refused = carried_out(line, folder, slurm)
        assert "in the hands of another process" in refused.stderr
        process.kill()
    for job in said("squeue -h -r -o %i -t RUNNING", slurm).split()[:1]:
        said(f"scancel --signal=KILL --full {job}", slurm)
    done = carried_out(line, folder, slurm)
    assert done.returncode == 0, done.stderr
    names = [f"{name}-seed0{ending}" for name in ("plain", "layered") for ending in (".toml", ".safetensors")]
    same_bytes(folder / "zoo", folder / "alone", names)
