"""Who does the work: this process, others on this machine, or the jobs of a cluster. No number depends on it."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol, final, runtime_checkable

from robustbench_bcos.bench.config import RunConfig
from robustbench_bcos.core.devices import check_driver
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.packages import find_package

if TYPE_CHECKING:
    from robustbench_bcos.bench.job import AbstractJob
    from robustbench_bcos.bench.job_folder import JobFolder
    from robustbench_bcos.bench.progress import Progress
    from robustbench_bcos.bench.request import Request
    from robustbench_bcos.bench.store import Store


class Stopped(BaseException):
    """A job must end, and what it has found is kept; nothing may catch it on its way."""


@runtime_checkable
class AnyUnit(Protocol):
    """What one job does: a part of a run, a training. Pickle takes it, and its text is for a person."""

    @property
    def name(self) -> str:
        """As part of a file's name: the same unit has the same, and no other unit has it."""


@runtime_checkable
class Assignment(Protocol):
    """What units are parts of: a run, the trainings of a suite."""

    @property
    def config(self) -> RunConfig:
        """What the machine is asked for."""

    @property
    def device(self) -> str:
        """Of this process."""

    @property
    def digest(self) -> str:
        """Eight characters that it alone has."""


class AbstractExecutor(ABC):
    """Carries out requests."""

    name: ClassVar[str]

    @classmethod
    def check(cls, config: RunConfig) -> None:
        """See that it can be used with these options, before torch is imported.

        Raises:
            RequestError: it cannot.
        """
        if config.slurm:
            raise RequestError(f"slurm says what jobs of slurm get, and the executor is {cls.name}: leave out either")
        check_driver(config.device)

    @classmethod  # noqa: B027 (most have nothing to begin)
    def prepare(cls, job: str) -> None:
        """Begin what takes time by itself, while models and images are read: called before torch is imported.

        Args:
            job: the module of what will carry out units.
        """

    @classmethod
    def for_several(cls) -> "type[AbstractExecutor]":
        """What carries out several trainings at a time."""
        return cls

    @classmethod
    def device_of_jobs(cls, config: RunConfig) -> str | None:
        """The device that work is done on, where that is another one than this machine has."""
        return None

    @classmethod
    @abstractmethod
    def execute(cls, request: "Request", store: "Store", folder: Path) -> "Iterator[Progress]":
        """Do what is not yet in the store, and report every piece of work, those found done included.

        Args:
            request: what to do.
            store: of the run, which nobody else writes.
            folder: of the run.
        """


class Handle(ABC):
    """A unit that has been submitted."""

    name: str = ""
    """By which a later process finds it again; empty where none can."""

    @abstractmethod
    def alive(self) -> bool:
        """Whether it waits or works. Only its files say what it has done."""

    @property
    def state(self) -> str:
        """In words, for a person."""
        return "waits or works" if self.alive() else "has ended"

    @abstractmethod
    def cancel(self) -> None:
        """End it."""


class AbstractJobs(AbstractExecutor):
    """Carries out units elsewhere.

    Args:
        asked: what they are units of.
        jobs: where jobs find their order, and leave what they have found.
        order: digest of that order.
        job: what carries out units of this kind.
    """

    outlives: ClassVar[bool] = False
    """Whether jobs go on after this process."""
    patience: ClassVar[float] = 0.0
    """Seconds after a job's end in which its files may still come to be seen here."""
    pause: ClassVar[float] = 0.05
    """Seconds between two looks at what has been done."""
    workers: int | None = None
    """Jobs at the same time, where this process sees to it."""

    def __init__(self, asked: Assignment, jobs: "JobFolder", order: str, job: "type[AbstractJob]") -> None:
        self.asked = asked
        self.jobs = jobs
        self.order = order
        self.job = job

    @classmethod
    @final
    def execute(cls, request: "Request", store: "Store", folder: Path) -> "Iterator[Progress]":
        """By a submitter, which alone writes the store."""
        from robustbench_bcos.bench.submitter import Submitter

        return Submitter(cls, request, store, folder).carry_out()

    @classmethod
    def workers_for(cls, asked: Assignment) -> int | None:
        """Jobs at the same time."""
        return None

    @classmethod
    def check_folder(cls, folder: Path) -> None:
        """See that jobs can see the folder that the work is in.

        Raises:
            RequestError: they cannot.
        """

    @abstractmethod
    def submit(self, units: Sequence[AnyUnit], *, others: bool = False) -> list[Handle]:
        """Submit units; where there are ``workers``, never more than are free.

        Args:
            units: the first of them are submitted first.
            others: whether jobs wait or work already.

        Returns:
            Of the units that were taken, in their order: all, but where a cluster has reached a limit of its own.
        """

    @classmethod
    def find(cls, name: str) -> Handle | None:
        """A job that an earlier process has submitted."""
        return None

    def close(self) -> None:
        """End what must not outlive this process."""


def check_submitit(executor: str) -> None:
    """See that submitit is there; it is not imported.

    Raises:
        RequestError: it is not installed.
    """
    if find_package("submitit") is None:
        raise RequestError(
            f"executor {executor} needs submitit, which is not installed: pip install submitit (the extra cluster of "
            "this package)"
        )
