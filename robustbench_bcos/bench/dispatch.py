"""Has units carried out by jobs: submits them, sees what they have left, and submits again what has left nothing."""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Any, Generic, NamedTuple, Self, TypeVar

from robustbench_bcos.bench.executor import AbstractJobs, AnyUnit, Assignment, Handle
from robustbench_bcos.bench.executors import EXECUTORS
from robustbench_bcos.bench.job import AbstractJob, of_this_code
from robustbench_bcos.bench.job_folder import FAILED, LOGS, WHOLE, JobFolder
from robustbench_bcos.core.errors import Broken, Interrupted, RequestError

ATTEMPTS = 4
"""Times that a unit is submitted without leaving anything."""

U = TypeVar("U", bound=AnyUnit)


class Answer(NamedTuple, Generic[U]):
    """What a unit has left."""

    unit: U
    endings: set[str]
    """Of its files; none where so many jobs have left nothing that it is not submitted again."""
    left: int
    """Units that are waiting or worked on."""


@dataclass
class _Running(Generic[U]):
    """A unit that was submitted."""

    unit: U
    handle: Handle
    ended: float | None = None
    """When its job was first seen to have ended."""


class Dispatch(Generic[U]):
    """Units of an executor. Jobs of an earlier session that had the same order are waited for, others are ended.

    Args:
        kind: what they are submitted to.
        asked: what they are units of.
        jobs: where jobs find their order, and leave what they have found.
        job: what carries out units of this kind.
        order: what jobs are given, beside the configuration.
        costs: measures what units cost, where no earlier session that had the same order has: with other costs there
            would be other units.

    Attributes:
        costs: of this order.
    """

    def __init__(
        self,
        kind: type[AbstractJobs],
        asked: Assignment,
        *,
        jobs: JobFolder,
        job: type[AbstractJob],
        order: Mapping[str, Any],
        costs: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        order = {**of_this_code(), "configuration": asked.config.model_dump(mode="json"), **order}
        told, self._earlier = _earlier_jobs(jobs, order)
        told = told or {**order, "costs": costs()}
        self.costs: dict[str, dict[str, Any]] = told["costs"]
        self.engine = kind(asked, jobs, jobs.order(told), job)
        self.jobs = jobs
        self._waiting: deque[U] = deque()
        self._running: dict[str, _Running[U]] = {}
        self._answered: list[Handle] = []

    def answers(self, units: Sequence[U], progress: Callable[[U], object] = lambda unit: None) -> Iterator[Answer[U]]:
        """Submit units, and yield each once its job has left a file, or when it is given up.

        Args:
            units: the first of them are submitted first.
            progress: what changes whenever an attempt that leaves no file has come further all the same.

        Raises:
            Interrupted: somebody has cancelled them.
        """
        for unit in units:
            if (handle := self._earlier.pop(unit.name, None)) is not None:
                self._running[unit.name] = _Running(unit, handle)
        self._waiting = deque(unit for unit in units if unit.name not in self._running)
        tries: Counter[str] = Counter()
        before = {unit.name: progress(unit) for unit in units}
        self._submit()
        while self._waiting or self._running:
            if self.jobs.cancelled:
                raise Interrupted(
                    f"cancelled; repeat the same command to continue in {self.jobs.run}, where nothing is lost"
                )
            ended = list(self._ended())
            for unit, endings in ended:
                self._answered.append(self._running.pop(unit.name).handle)
                if not endings:
                    # An attempt that came further is not the last one.
                    came = progress(unit)
                    tries[unit.name] = tries[unit.name] + 1 if came == before[unit.name] else 1
                    before[unit.name] = came
                    if tries[unit.name] < ATTEMPTS:
                        self._waiting.append(unit)
                        continue
                yield Answer(unit, endings, len(self._running) + len(self._waiting))
            if ended:
                self._submit()
            else:
                sleep(self.engine.pause)

    def carry_out(self, missing: Callable[[], Mapping[U, int]], collect: Callable[[], object]) -> Iterator[Answer[U]]:
        """Submit what is missing, until nothing is; yields each whole answer.

        Args:
            missing: units and how much of each, asked again once all that was submitted has left something.
            collect: takes what they have left.

        Raises:
            RequestError: a job says that it cannot be carried out.
            Broken: a job has failed, or so many have left nothing, or nothing new.
            Interrupted: somebody has cancelled them.
        """
        before, idle = 0, 0
        while units := missing():
            left = sum(units.values())
            idle = idle + 1 if left == before else 0
            before = left
            if idle == ATTEMPTS:
                raise no_progress(self.jobs, next(iter(units)))
            for answer in self.answers(list(units)):
                if WHOLE in answer.endings:
                    yield answer
                elif FAILED in answer.endings:
                    raise self.jobs.failure(answer.unit)
                elif not answer.endings:
                    raise no_progress(self.jobs, answer.unit)
                # What has a part is for the next time: only what is still missing of it.
            collect()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End jobs that nothing waits for: all of them after an error, but not after an interruption.

        One that has answered may have been put into the queue once more.
        """
        try:
            if kind is not None and issubclass(kind, RequestError | Broken | Interrupted):
                for one in self._running.values():
                    one.handle.cancel()
        finally:
            self.engine.close()
        if kind is None:
            for handle in (*self._earlier.values(), *self._answered):
                if handle.alive():
                    handle.cancel()

    def _submit(self) -> None:
        """As many as there is room for; the others have their turn when something has ended."""
        engine, running = self.engine, self._running
        room = len(self._waiting) if engine.workers is None else engine.workers - len(running)
        some = list(self._waiting)[:room]
        if not some:
            return
        for handle in engine.submit(some, others=bool(running)):
            unit = self._waiting.popleft()
            running[unit.name] = _Running(unit, handle)
        self.jobs.record(engine.name, [(one.unit, one.handle.name) for one in running.values()])

    def _ended(self) -> Iterator[tuple[U, set[str]]]:
        """Units that are answered, or whose jobs have ended and left nothing in time."""
        found = self.jobs.found()
        for name, one in list(self._running.items()):
            endings = found.get(name, set())
            if endings & {WHOLE, FAILED}:
                yield one.unit, endings
            elif one.handle.alive():
                one.ended = None
            else:
                one.ended = one.ended or monotonic()
                if monotonic() - one.ended >= self.engine.patience:
                    # Once more: the job may have ended after the listing.
                    yield one.unit, self.jobs.found().get(name, set())


def no_progress(jobs: JobFolder, unit: AnyUnit) -> Broken:
    """Why a unit is not submitted again."""
    return Broken(
        f"{ATTEMPTS} jobs have ended without an answer in {unit}: see the logs in {jobs.path / LOGS} (they may need "
        "more memory or time, or not see this folder)"
    )


def _earlier_jobs(jobs: JobFolder, order: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Handle]]:
    """Jobs of an earlier session that still wait or work, by name of their units, and what they were told.

    None where their order was another one; they are ended then.

    Args:
        jobs: where they are recorded.
        order: what jobs are to be told; that which was told may have more.
    """
    told = jobs.earlier_order()
    executor, units = jobs.submitted()
    handles = {name: handle for name, one in units.items() if (handle := find_job(executor, one["job"])) is not None}
    if told and all(told.get(key) == value for key, value in order.items()):
        return told, handles
    for handle in handles.values():
        handle.cancel()
    return {}, {}


def find_job(executor: str, job: str) -> Handle | None:
    """A job that an earlier process has submitted, while it waits or works."""
    if not job or executor not in EXECUTORS or not issubclass(kind := EXECUTORS[executor], AbstractJobs):
        return None
    return kind.find(job)
