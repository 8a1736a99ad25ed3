"""Carries out a request by jobs: plans units, submits them, sees what they have found, and alone writes the store.

What has been done is what is in the store. A unit is submitted as often as it takes: whether a job has died, was
stopped, or answered with a damaged file, the rest of its unit is still missing.
"""

from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from robustbench_bcos.bench.executor import AbstractJobs, Handle
from robustbench_bcos.bench.executors import EXECUTORS
from robustbench_bcos.bench.job_folder import FAILED, LOGS, PART, WHOLE, JobFolder
from robustbench_bcos.bench.progress import Progress
from robustbench_bcos.bench.provenance import code_digest, commit
from robustbench_bcos.bench.request import Request
from robustbench_bcos.bench.schedule import Schedule
from robustbench_bcos.bench.store import Store
from robustbench_bcos.bench.units import Costs, Plan, Planned
from robustbench_bcos.core.errors import Broken, Interrupted, RequestError
from robustbench_bcos.data.checked import image_digests
from robustbench_bcos.model_zoo.models import LoadedModel

ATTEMPTS = 4
"""Times that a unit is submitted without leaving anything, and that all units are without anything being done."""


@dataclass
class _Running:
    """A unit that was submitted."""

    planned: Planned
    handle: Handle
    ended: float | None = None
    """When its job was first seen to have ended."""


class Submitter:
    """One session of a run that is carried out by jobs.

    Args:
        kind: what jobs are submitted to.
        request: what to do.
        store: of the run.
        folder: of the run.
    """

    def __init__(self, kind: type[AbstractJobs], request: Request, store: Store, folder: Path) -> None:
        kind.check_folder(folder)
        for source in request.sources:
            if isinstance(source, LoadedModel):
                raise RequestError(
                    f"model {source.name!r} is an object of this process, and jobs load theirs by name: give a "
                    "module:callable, or use the executor local"
                )
        self.kind = kind
        self.request = request
        self.store = store
        self.jobs = JobFolder(folder)

    def carry_out(self) -> Iterator[Progress]:
        """Do what is not yet in the store."""
        self.jobs.open()
        self.jobs.collect(self.store, self.request.digest)
        # Nothing needs to be measured for this.
        plan = self._plan({source.name: Costs(batch_size=1, pass_seconds=0.0) for source in self.request.sources})
        missing = sum(planned.images for wave in plan.waves() for planned in plan.missing(wave, self.store))
        yield Progress(cell=self.request.cells[0], images=Schedule(request=self.request).work - missing)
        if missing:
            yield from self._missing()
        self.jobs.clear()

    def _missing(self) -> Iterator[Progress]:
        order, earlier = self._order()
        plan = self._plan({name: Costs(**costs) for name, costs in order["costs"].items()})
        engine = self.kind(self.request, self.jobs, self.jobs.order(order))
        try:
            for wave in plan.waves():
                yield from self._wave(engine, plan, wave, earlier)
        finally:
            engine.close()
        for handle in earlier.values():
            handle.cancel()

    def _plan(self, costs: Mapping[str, Costs]) -> Plan:
        return Plan(
            request=self.request,
            costs=costs,
            run=self.request.digest,
            seconds=60 * self.request.config.job_minutes,
            workers=self.kind.workers_for(self.request),
        )

    def _wave(
        self, engine: AbstractJobs, plan: Plan, stages: tuple[str, ...], earlier: dict[str, Handle]
    ) -> Iterator[Progress]:
        """Stages whose units need nothing of one another."""
        before, idle = 0, 0
        while missing := plan.missing(stages, self.store):
            left = sum(planned.images for planned in missing)
            idle = idle + 1 if left == before else 0
            before = left
            if idle == ATTEMPTS:
                raise self._no_progress(missing[0])
            yield from self._submitted(engine, missing, earlier)
            self.jobs.collect(self.store, self.request.digest)

    def _submitted(
        self, engine: AbstractJobs, missing: list[Planned], earlier: dict[str, Handle]
    ) -> Iterator[Progress]:
        """Units, until each has left a file, or what came of it is for the next plan."""
        running: dict[str, _Running] = {}
        for planned in missing:
            if (handle := earlier.pop(planned.unit.name, None)) is not None:
                running[planned.unit.name] = _Running(planned, handle)
        waiting = deque(planned for planned in missing if planned.unit.name not in running)
        tries: Counter[str] = Counter()
        self._submit(engine, waiting, running)
        try:
            while waiting or running:
                if self.jobs.cancelled:
                    raise Interrupted(
                        f"cancelled; repeat the same command to continue in {self.jobs.run}, where nothing is lost"
                    )
                ended = list(self._ended(engine, running))
                for answered in ended:
                    yield from self._ending(answered, running, waiting, tries)
                if ended:
                    self._submit(engine, waiting, running)
                else:
                    sleep(engine.pause)
        except (RequestError, Broken, Interrupted):
            for one in running.values():
                one.handle.cancel()
            raise

    def _submit(self, engine: AbstractJobs, waiting: deque[Planned], running: dict[str, _Running]) -> None:
        """As many as there is room for; the others have their turn when something has ended."""
        room = len(waiting) if engine.workers is None else engine.workers - len(running)
        some = list(waiting)[:room]
        if not some:
            return
        for handle in engine.submit([one.unit for one in some], others=bool(running)):
            planned = waiting.popleft()
            running[planned.unit.name] = _Running(planned, handle)
        names = {name: one.handle.name for name, one in running.items()}
        self.jobs.record(self.kind.name, names, [one.planned for one in running.values()])

    def _ended(self, engine: AbstractJobs, running: Mapping[str, _Running]) -> Iterator[tuple[_Running, set[str]]]:
        """Units that are answered, or whose jobs have ended and left nothing in time."""
        found = self.jobs.found()
        for name, one in list(running.items()):
            endings = found.get(name, set())
            if endings & {WHOLE, FAILED}:
                yield one, endings
            elif one.handle.alive():
                one.ended = None
            else:
                one.ended = one.ended or monotonic()
                if monotonic() - one.ended >= engine.patience:
                    # Once more: the job may have ended after the listing.
                    yield one, self.jobs.found().get(name, set())

    def _ending(
        self,
        ended: tuple[_Running, set[str]],
        running: dict[str, _Running],
        waiting: deque[Planned],
        tries: Counter[str],
    ) -> Iterator[Progress]:
        one, endings = ended
        unit = one.planned.unit
        del running[unit.name]
        if FAILED in endings and WHOLE not in endings:
            raise self.jobs.failure(unit)
        if WHOLE in endings:
            left = len(running) + len(waiting)
            stage = f"{left} other jobs{', which go on' if self.kind.outlives else ''}" if left else ""
            for cell, images in one.planned.work:
                yield Progress(cell=cell, images=images, stage=stage)
        elif PART not in endings:
            # What has a part is for the next plan: only what is still missing of it.
            tries[unit.name] += 1
            if tries[unit.name] == ATTEMPTS:
                raise self._no_progress(one.planned)
            waiting.append(one.planned)

    def _no_progress(self, planned: Planned) -> Broken:
        return Broken(
            f"{ATTEMPTS} jobs have ended without an answer in {planned.unit}: see the logs in "
            f"{self.jobs.path / LOGS} (they may need more memory or time, or not see this folder)"
        )

    def _order(self) -> tuple[dict[str, Any], dict[str, Handle]]:
        """The order of jobs, and jobs of an earlier session that had the same and still wait or work.

        What was measured by that session stays, so that its units are found again; its other jobs are ended.
        """
        request = self.request
        digests = image_digests(request.subset.dataset, request.subset.indices)
        order: dict[str, Any] = {
            "identity": request.identity.to_json(),
            "configuration": request.config.model_dump(mode="json"),
            "code": code_digest(),
            "commit": commit(clean=True),
            "directory": str(Path.cwd()),
            "images": {str(index): digest for index, digest in digests.items()},
        }
        earlier, handles = self.jobs.earlier_order(), self._earlier()
        if all(earlier.get(key) == value for key, value in order.items()):
            return earlier, handles
        for handle in handles.values():
            handle.cancel()
        costs = {source.name: vars(Costs.of(request, source, self.store)) for source in request.sources}
        return order | {"costs": costs}, {}

    def _earlier(self) -> dict[str, Handle]:
        executor, units = self.jobs.submitted()
        if executor not in EXECUTORS or not issubclass(kind := EXECUTORS[executor], AbstractJobs):
            return {}
        found = {name: kind.find(one["job"]) for name, one in units.items() if one["job"]}
        return {name: handle for name, handle in found.items() if handle is not None}
