"""Processes of this machine that take one unit after another: one a core, or one a GPU."""

import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, final

from robustbench_bcos.bench.executor import AbstractJobs, AnyUnit, Assignment, Handle, Stopped
from robustbench_bcos.bench.executors import EXECUTORS
from robustbench_bcos.core.processes import context_with

if TYPE_CHECKING:
    from robustbench_bcos.bench.job import AbstractJob
    from robustbench_bcos.bench.job_folder import JobFolder

GRACE = 20.0
"""Seconds in which a process that is ended may show what it has found."""


@final
@EXECUTORS.registered("processes")
class Processes(AbstractJobs):
    """Workers that keep their models from one unit to the next."""

    def __init__(self, asked: Assignment, jobs: "JobFolder", order: str, job: "type[AbstractJob]") -> None:
        super().__init__(asked, jobs, order, job)
        self.workers: int = self.workers_for(asked)
        self._team: list[_Worker] = []
        self._logs = jobs.log_folder()

    @classmethod
    def prepare(cls, job: str) -> None:
        """Start the process that workers are forked off, which imports torch."""
        context_with(job)

    @classmethod
    def workers_for(cls, asked: Assignment) -> int:
        """What is asked for; or one a GPU, or one for as many cores as each may use."""
        from robustbench_bcos.bench.schedule import cores

        alone = len(_gpus(asked)) or 1
        config = asked.config
        return config.jobs or (cores() // (config.threads or 1) if asked.device == "cpu" else alone) or 1

    def submit(self, units: Sequence[AnyUnit], *, others: bool = False) -> list[Handle]:
        """Give each unit to a worker that has none, or to a new one."""
        return [self._free().take(unit) for unit in units]

    def close(self) -> None:
        """End the workers; what they have found by then is shown."""
        for worker in self._team:
            worker.process.terminate()
        for worker in self._team:
            worker.process.join(GRACE)
            worker.process.kill()
            worker.process.join()

    def _free(self) -> "_Worker":
        while True:
            self._team = [worker for worker in self._team if worker.process.is_alive()]
            for worker in self._team:
                if not worker.busy():
                    return worker
            if len(self._team) < self.workers:
                return self._new()
            # Its answer is seen a moment before it says so itself.
            sleep(self.pause)

    def _new(self) -> "_Worker":
        gpus = _gpus(self.asked)
        taken = Counter(worker.gpu for worker in self._team)
        gpu = min(gpus, key=lambda one: taken[one], default="")
        threads = self.asked.config.threads or 1
        worker = _Worker(
            self.job, self.jobs.run.absolute(), order=self.order, threads=threads, gpu=gpu, logs=self._logs
        )
        self._team.append(worker)
        return worker


class _Worker:
    """A process that takes units."""

    def __init__(self, job: "type[AbstractJob]", run: Path, *, order: str, threads: int, gpu: str, logs: Path) -> None:
        context = context_with(job.__module__)
        self.gpu = gpu
        self._channel, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(
            target=_work, args=(theirs, job, run, order, threads, gpu, logs), daemon=True
        )
        self.process.start()
        # Open in the other process alone: when either ends, the other notices.
        theirs.close()
        self._current: AnyUnit | None = None

    def take(self, unit: AnyUnit) -> Handle:
        self._current = unit
        try:
            self._channel.send(unit)
        except OSError:
            self._current = None
        return _Taken(self, unit)

    def busy(self, unit: AnyUnit | None = None) -> bool:
        """Whether it works, on a unit if one is given."""
        try:
            while self._channel.poll():
                self._channel.recv()
                self._current = None
        except (EOFError, OSError):
            self._current = None
        return self._current is not None and unit in (None, self._current)


class _Taken(Handle):
    def __init__(self, worker: _Worker, unit: AnyUnit) -> None:
        self._worker = worker
        self._unit = unit

    def alive(self) -> bool:
        return self._worker.process.is_alive() and self._worker.busy(self._unit)

    def cancel(self) -> None:
        self._worker.process.terminate()


def _gpus(asked: Assignment) -> list[str]:
    """As ``CUDA_VISIBLE_DEVICES`` has them; none where none is used, or one is named."""
    if asked.device != "cuda":
        return []
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]


def _work(
    channel: Connection, kind: "type[AbstractJob]", run: Path, order: str, threads: int, gpu: str, logs: Path
) -> None:
    # The process that started this one decides what an interruption means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with (logs / f"worker-{os.getpid()}.txt").open("ab") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    if gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu

    def stop(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Stopped

    def check() -> None:
        """A command that is repeated after its process was killed must not find the old workers still at work."""
        parent = multiprocessing.parent_process()
        if parent is not None and not parent.is_alive():
            raise Stopped

    signal.signal(signal.SIGTERM, stop)
    job = kind(run, order, threads)
    try:
        while True:
            unit = channel.recv()
            job.carry_out(unit, check)
            channel.send(unit.name)
    except (Stopped, EOFError, OSError):
        return
