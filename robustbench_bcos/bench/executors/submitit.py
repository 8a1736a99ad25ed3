"""submitit's executor for one machine: a process for each unit, as on a cluster."""

import os
from time import monotonic, sleep
from typing import Any, final

from robustbench_bcos.bench.executor import Assignment, Handle
from robustbench_bcos.bench.executors import EXECUTORS
from robustbench_bcos.bench.executors._submitit import SubmititJobs

GRACE = 20.0
"""Seconds in which a process that is ended does end."""

MINUTES = 60 * 24 * 7
"""No limit that a job meets."""


@final
@EXECUTORS.registered("submitit")
class Submitit(SubmititJobs):
    """The way to try a cluster's jobs without a cluster; submitit calls it local."""

    most_at_once = 1

    @classmethod
    def workers_for(cls, asked: Assignment) -> int:
        """What is asked for, or a job for each core that it may use: submitit itself would start all at once."""
        from robustbench_bcos.bench.schedule import cores

        return asked.config.jobs or max(1, cores() // (asked.config.threads or 1))

    def engine(self) -> Any:  # noqa: ANN401
        """The executor of submitit for one machine."""
        from submitit import LocalExecutor

        engine = LocalExecutor(self.jobs.log_folder().absolute())
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        gpus = [int(gpu) for gpu in visible.split(",") if gpu.isdigit()] if self.asked.device != "cpu" else []
        engine.update_parameters(timeout_min=MINUTES, gpus_per_node=len(gpus), visible_gpus=gpus)
        return engine

    def handle(self, job: Any) -> Handle:  # noqa: ANN401
        """Of a job of submitit."""
        handle = _Process(job)
        self._started.append(handle)
        return handle

    def close(self) -> None:
        """End the processes."""
        for handle in self._started:
            handle.cancel()
        until = monotonic() + GRACE
        while any(handle.alive() for handle in self._started) and monotonic() < until:
            sleep(self.pause)

    def __init__(self, *arguments: Any) -> None:  # noqa: ANN401
        super().__init__(*arguments)
        self.workers = self.workers_for(self.asked)
        self._started: list[_Process] = []


class _Process(Handle):
    def __init__(self, job: Any) -> None:  # noqa: ANN401
        self._job = job

    def alive(self) -> bool:
        return not self._job.done()

    def cancel(self) -> None:
        if self.alive():
            self._job.cancel()
