"""Jobs of Slurm, submitted by submitit in arrays. Their states are squeue's: submitit's own need accounting."""

import getpass
import os
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import Any, ClassVar, final

from robustbench_bcos.bench.config import RunConfig
from robustbench_bcos.bench.executor import Handle
from robustbench_bcos.bench.executors import EXECUTORS
from robustbench_bcos.bench.executors._submitit import SubmititJobs
from robustbench_bcos.core.errors import RequestError

COMMANDS = ("sbatch", "squeue", "scancel", "scontrol")

TEMPORARY = ("/tmp", "/var/tmp", "/dev/shm")
"""Folders that every machine has for itself."""

SHORTEST = 20
"""Minutes of a time limit, at least: within ten of it, submitit takes a pre-emption for the limit."""

TIMES = 3
"""The limit of a job, in times of what it should take."""

NEVER = 10**6
"""Times that submitit lets a job meet its limit: a job itself counts how often it was put into the queue again."""

FRESH = 2.0
"""Seconds for which the answer of squeue is taken to hold."""

ENDED = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT"}


@final
@EXECUTORS.registered("slurm")
class Slurm(SubmititJobs):
    """Needs a folder that all machines share."""

    outlives = True
    patience: ClassVar[float] = 60.0
    pause: ClassVar[float] = 1.0

    @classmethod
    def check(cls, config: RunConfig) -> None:
        """Also, that Slurm's commands are there, and that its options have values."""
        missing = [command for command in COMMANDS if shutil.which(command) is None]
        if missing:
            raise RequestError(
                f"executor slurm needs Slurm's commands, and {missing[0]} is not on PATH: call it where jobs are "
                "submitted, or use processes"
            )
        slurm_options(config)
        # Jobs may run where there are GPUs.
        super().check(config.model_copy(update={"slurm": (), "device": "auto"}))

    @classmethod
    def device_of_jobs(cls, config: RunConfig) -> str | None:
        """A GPU, where jobs are given one and this machine, from which they are submitted, has none."""
        import torch

        asked = any("gpu" in f"{key}={value}" for key, value in slurm_options(config).items())
        wanted = config.device.startswith("cuda") or (config.device == "auto" and asked)
        return "cuda" if wanted and not torch.cuda.is_available() else None

    @classmethod
    def check_folder(cls, folder: Path) -> None:
        """Refuse what other machines do not see, unless there are none."""
        place = folder.resolve()
        if any(place.is_relative_to(root) for root in (*TEMPORARY, tempfile.gettempdir())) and not _alone():
            raise RequestError(
                f"--out {folder} is in a folder that every machine has for itself, and jobs of slurm run on others: "
                "choose a folder that they share"
            )

    @property
    def most_at_once(self) -> int:  # type: ignore[override] # what this cluster says
        """What the cluster takes for an array."""
        found = re.search(r"MaxArraySize\s*=\s*(\d+)", _said(["scontrol", "show", "config"]) or "")
        return max(1, min(int(found[1]) - 1, 1000)) if found else 1000

    def engine(self) -> Any:  # noqa: ANN401
        """The executor of submitit for Slurm."""
        from submitit import SlurmExecutor

        config = self.asked.config
        options = slurm_options(config)
        minutes = max(SHORTEST, int(TIMES * config.job_minutes) + 1)
        if "time" in options:
            minutes = minutes_of(options["time"])
        cpus = options.get("cpus-per-task")
        engine = SlurmExecutor(self.jobs.log_folder().absolute(), max_num_timeout=NEVER)
        engine.update_parameters(
            job_name=f"bcos-{self.asked.digest}",
            time=minutes,
            # Short jobs are warned in good time, too: submitit asks for a fifth of the limit at most.
            signal_delay_s=min(90, max(1, 60 * minutes // 5)),
            array_parallelism=config.jobs or 10_000,
            additional_parameters=options,
            # Since 22.05, srun is not told what sbatch was.
            srun_args=[f"--cpus-per-task={cpus}"] if cpus else None,
        )
        return engine

    def handle(self, job: Any) -> Handle:  # noqa: ANN401
        """Of a job of submitit."""
        return _Job(str(job.job_id))

    @classmethod
    def find(cls, name: str) -> Handle | None:
        """The job of that number, while Slurm has it."""
        job = _Job(name)
        # The name is from a file, and scancel takes options, too.
        return job if re.fullmatch(r"\d+(_\d+)?", name) and job.alive() else None


class _Job(Handle):
    def __init__(self, name: str) -> None:
        self.name = name
        self._since = monotonic()

    def alive(self) -> bool:
        # What was submitted after the answer is not in it.
        return _QUEUE.of(self.name, after=self._since)[0] not in ENDED

    @property
    def state(self) -> str:
        """As squeue says it, with the machine."""
        return " on ".join(filter(None, _QUEUE.of(self.name, after=self._since)))

    def cancel(self) -> None:
        _said(["scancel", self.name])


class _Queue:
    """What squeue says of all jobs of this user."""

    def __init__(self) -> None:
        self._jobs: dict[str, tuple[str, str]] | None = None
        self._asked = float("-inf")

    def of(self, job: str, after: float) -> tuple[str, str]:
        """State and machine: ``COMPLETED`` where Slurm has it no more, ``UNKNOWN`` where Slurm does not answer."""
        if monotonic() - self._asked > FRESH or self._asked < after:
            self._asked = monotonic()
            said = _said(["squeue", "--noheader", "--array", f"--user={getpass.getuser()}", "--format=%i|%T|%N"])
            lines = [line.strip().split("|") for line in (said or "").splitlines()]
            self._jobs = None if said is None else {line[0]: (line[1], line[2]) for line in lines if len(line) == 3}
        return ("UNKNOWN", "") if self._jobs is None else self._jobs.get(job, ("COMPLETED", ""))


_QUEUE = _Queue()


def slurm_options(config: RunConfig) -> dict[str, str]:
    """``--slurm`` as sbatch has it; a value with commas has been cut at them.

    Raises:
        RequestError: one has no equals sign.
    """
    found: dict[str, str] = {}
    for text in config.slurm:
        key, equals, value = text.partition("=")
        if equals:
            found[key.strip().lstrip("-").replace("_", "-")] = value.strip()
        elif found:
            last = next(reversed(found))
            found[last] = f"{found[last]},{text}"
        else:
            raise RequestError(f"slurm {text!r} must be KEY=VALUE: partition=gpu, say")
    if "time" in found:
        minutes_of(found["time"])
    return found


def minutes_of(limit: str) -> int:
    """A time limit as sbatch takes it: minutes, minutes:seconds, hours:minutes:seconds, days-hours and so on.

    Raises:
        RequestError: it is none.
    """
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", limit)
    if not found:
        raise RequestError(f"slurm time={limit} is no time limit: give minutes, or hours:minutes:seconds")
    days, *rest = found.groups()
    numbers = [int(number) for number in rest if number is not None]
    if days is not None or len(numbers) == 3:
        hours, minutes, seconds = [*numbers, 0, 0][:3]
    else:
        hours, (minutes, seconds) = 0, [*numbers, 0][:2]
    return max(1, -(-((int(days or 0) * 24 + hours) * 3600 + minutes * 60 + seconds) // 60))


def _alone() -> bool:
    """Whether this machine is all of the cluster."""
    nodes = (_said(["sinfo", "--noheader", "--Node", "--format=%n"]) or "").split()
    return bool(nodes) and set(nodes) <= {socket.gethostname(), socket.gethostname().partition(".")[0]}


def _said(command: Sequence[str]) -> str | None:
    """What a command of Slurm says; ``None`` where it fails, or says nothing in time."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=60, env=os.environ | {"LC_ALL": "C"}
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
