"""What the executors that go through submitit have in common (https://github.com/facebookincubator/submitit).

submitit starts jobs and passes on a time limit or a pre-emption. Only our own files say what has been done.
"""

import os
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import redirect_stderr, suppress
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from robustbench_bcos.bench.config import RunConfig
from robustbench_bcos.bench.executor import AbstractJobs, AnyUnit, Handle, Stopped, check_submitit
from robustbench_bcos.core.errors import RequestError, reason_of

if TYPE_CHECKING:
    from robustbench_bcos.bench.job import AbstractJob

AGAIN = 5
"""Times that a job is put into the queue again by itself; after that, the submitter decides."""


class Work:
    """What submitit takes for a function: one unit, and by their names alone what carries it out and where."""

    def __init__(self, job: "type[AbstractJob]", run: Path, order: str, unit: AnyUnit, threads: int | None) -> None:
        self.job = job
        self.run = run
        self.order = order
        self.unit = unit
        self.threads = threads
        self._job: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_job": None}

    def __call__(self) -> None:
        """Carry out the unit."""
        _remove_litter()
        cpus = os.environ.get("SLURM_CPUS_PER_TASK", "")
        threads = int(cpus) if cpus.isdigit() else self.threads
        self._job = self.job(self.run, self.order, threads)
        self._job.carry_out(self.unit)

    def checkpoint(self) -> Any:  # noqa: ANN401 (submitit's)
        """Asked by submitit before a time limit, or where others need the machine; what is done is shown, and kept."""
        from submitit.helpers import DelayedSubmission

        # In the middle of a transaction nothing can be shown; what was shown before is there.
        with suppress(RequestError):
            self._job.show()
        if int(os.environ.get("SLURM_RESTART_COUNT") or 0) >= AGAIN:
            raise Stopped
        return DelayedSubmission(self)


def _remove_litter() -> None:
    """What an attempt that was killed while it wrote has left, which would block every later one."""
    from submitit import JobEnvironment

    try:
        paths = JobEnvironment().paths
    except (RuntimeError, KeyError):
        return  # In the submitter's own process, where nothing is written.
    for litter in paths.folder.glob(f"{JobEnvironment().job_id}_*.save_tmp"):
        litter.unlink(missing_ok=True)


class SubmititJobs(AbstractJobs):
    """Jobs of submitit."""

    pause: ClassVar[float] = 0.2
    most_at_once: ClassVar[int] = 1000
    """Units of one array."""

    @classmethod
    def check(cls, config: RunConfig) -> None:
        """Also, that submitit is installed."""
        super().check(config)
        check_submitit(cls.name)

    @abstractmethod
    def engine(self) -> Any:  # noqa: ANN401 (submitit's executors)
        """The executor of submitit, with a folder of its own for logs: names of jobs come again."""

    @abstractmethod
    def handle(self, job: Any) -> Handle:  # noqa: ANN401
        """Of a job of submitit."""

    def submit(self, units: Sequence[AnyUnit], *, others: bool = False) -> list[Handle]:
        """In arrays."""
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        handles: list[Handle] = []
        for first in range(0, len(units), self.most_at_once):
            engine = self.engine()
            try:
                # What the cluster says to it, submitit prints and then raises.
                with redirect_stderr(StringIO()), engine.batch():
                    submitted = [engine.submit(self._work(unit)) for unit in units[first : first + self.most_at_once]]
            except (FailedJobError, FailedSubmissionError) as error:
                if "limit" in str(error).lower() and (handles or others):
                    break
                for handle in handles:
                    handle.cancel()
                raise RequestError(f"{self.name} refuses the jobs ({_reason(error)}): correct --slurm") from None
            handles += map(self.handle, submitted)
        return handles

    def _work(self, unit: AnyUnit) -> Work:
        return Work(self.job, self.jobs.run.absolute(), self.order, unit, self.asked.config.threads or 1)


def _reason(error: Exception) -> str:
    """The line that the cluster itself says."""
    lines = [line.strip() for line in str(error).splitlines() if "error:" in line]
    return lines[-1] if lines else reason_of(error)
