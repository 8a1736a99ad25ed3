"""An executor without processes, whose jobs meet with what happens to jobs."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from robustbench_bcos.bench.executor import AbstractJobs, AnyUnit, Assignment, Handle
from robustbench_bcos.bench.job import AbstractJob
from robustbench_bcos.bench.records import make_records
from robustbench_bcos.bench.request import Request
from robustbench_bcos.bench.rows import DigestRow, TimingRow, UnfinishedRow, tables
from robustbench_bcos.bench.store import Store
from robustbench_bcos.bench.submitter import Submitter

Fault = Callable[[Any, Any, int], None]
"""Carries out a unit, or does not; told how often it has been submitted before."""


def do(job: AbstractJob, unit: AnyUnit, number: int) -> None:
    """What a job does to which nothing happens."""
    job.carry_out(unit)


class Inline(AbstractJobs):
    """Units are carried out here, a number of them at once, in an order of the test's."""

    name = "inline"
    pause = 0.0
    jobs_at_once: ClassVar[int | None] = None
    order_of: ClassVar[Callable[[Sequence[Any]], Sequence[Any]]] = staticmethod(lambda units: units)
    fault: ClassVar[Fault] = staticmethod(do)
    seen: ClassVar[list[Any]] = []

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.workers = self.jobs_at_once
        self.doing = self.job(self.jobs.run, self.order)

    @classmethod
    def workers_for(cls, asked: Assignment) -> int | None:
        return cls.jobs_at_once

    def submit(self, units: Sequence[AnyUnit], *, others: bool = False) -> list[Handle]:
        for unit in self.order_of(units):
            number = self.seen.count(unit)
            self.seen.append(unit)
            self.fault(self.doing, unit, number)
        return [Ended() for _ in units]


class Ended(Handle):
    cancelled = False

    def alive(self) -> bool:
        return False

    def cancel(self) -> None:
        type(self).cancelled = True


def inline(**settings: Any) -> type[Inline]:
    """Such an executor, for one test."""
    wrapped = {name: staticmethod(value) if callable(value) else value for name, value in settings.items()}
    return type("One", (Inline,), {"seen": [], **wrapped})


def measured(request: Request, folder: Path, kind: type[AbstractJobs]) -> dict[str, Any]:
    """All that a run has found by jobs."""
    folder.mkdir(exist_ok=True)
    with Store(folder / "run.sqlite") as store:
        for _ in Submitter(kind, request, store, folder).carry_out():
            pass
        store.verify()
        return found(request, store)


def found(request: Request, store: Store) -> dict[str, Any]:
    """The results of a run, and every row of its tables but those that tell of time."""
    rows: dict[str, Any] = {
        table.table: store.select(table) for table in tables() if table not in (DigestRow, TimingRow, UnfinishedRow)
    }
    return rows | {"results.csv": make_records(store, request.identity).to_csv()}
