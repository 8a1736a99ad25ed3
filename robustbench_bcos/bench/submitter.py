"""Carries out a request by jobs: plans units, has them dispatched, and alone writes the store.

What has been done is what is in the store. A unit is submitted as often as it takes: whether a job has died, was
stopped, or answered with a damaged file, the rest of its unit is still missing.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from robustbench_bcos.bench.cells import Cell
from robustbench_bcos.bench.dispatch import Dispatch
from robustbench_bcos.bench.executor import AbstractJobs
from robustbench_bcos.bench.job_folder import JobFolder
from robustbench_bcos.bench.progress import Progress
from robustbench_bcos.bench.request import Request
from robustbench_bcos.bench.run_job import RunJob
from robustbench_bcos.bench.schedule import Schedule
from robustbench_bcos.bench.store import Store
from robustbench_bcos.bench.units import Costs, Plan, Unit
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.data.checked import image_digests
from robustbench_bcos.model_zoo.models import LoadedModel


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
        self._collect()
        # Nothing needs to be measured for this.
        plan = self._plan({source.name: Costs(batch_size=1, pass_seconds=0.0) for source in self.request.sources})
        missing = sum(planned.images for wave in plan.waves() for planned in plan.missing(wave, self.store))
        yield Progress(cell=self.request.cells[0], images=Schedule(request=self.request).work - missing)
        if missing:
            yield from self._missing()
        self.jobs.clear()

    def _missing(self) -> Iterator[Progress]:
        request = self.request
        digests = image_digests(request.subset.dataset, request.subset.indices)
        order = {"identity": request.identity.to_json(), "images": {str(key): one for key, one in digests.items()}}
        with Dispatch[Unit](self.kind, request, jobs=self.jobs, job=RunJob, order=order, costs=self._costs) as dispatch:
            plan = self._plan({name: Costs(**costs) for name, costs in dispatch.costs.items()})
            for wave in plan.waves():
                yield from self._wave(dispatch, plan, wave)

    def _costs(self) -> dict[str, dict[str, Any]]:
        request, workers = self.request, self.kind.workers_for(self.request)
        return {source.name: vars(Costs.of(request, source, self.store, workers)) for source in request.sources}

    def _plan(self, costs: Mapping[str, Costs]) -> Plan:
        return Plan(
            request=self.request,
            costs=costs,
            run=self.request.digest,
            seconds=60 * self.request.config.job_minutes,
            workers=self.kind.workers_for(self.request),
        )

    def _wave(self, dispatch: Dispatch[Unit], plan: Plan, stages: tuple[str, ...]) -> Iterator[Progress]:
        """Stages whose units need nothing of one another."""
        work: dict[Unit, tuple[tuple[Cell, int], ...]] = {}

        def missing() -> dict[Unit, int]:
            planned = plan.missing(stages, self.store)
            work.update((one.unit, one.work) for one in planned)
            return {one.unit: one.images for one in planned}

        for unit, _, others in dispatch.carry_out(missing, self._collect):
            stage = f"{others} other jobs{', which go on' if self.kind.outlives else ''}" if others else ""
            for cell, images in work[unit]:
                yield Progress(cell=cell, images=images, stage=stage)

    def _collect(self) -> None:
        self.jobs.collect(self.store, self.request.digest)
