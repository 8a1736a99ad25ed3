"""What a job of a run does: it plans the run again, sees that it is the same run, and carries out units of it."""

import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from time import monotonic, sleep
from typing import Any

from robustbench_bcos.bench.batch_size import BatchSize
from robustbench_bcos.bench.config import RunConfig
from robustbench_bcos.bench.identity import RunIdentity
from robustbench_bcos.bench.job import AbstractRowsJob
from robustbench_bcos.bench.job_folder import LATE
from robustbench_bcos.bench.request import Request, replan
from robustbench_bcos.bench.rows import Row
from robustbench_bcos.bench.runner import STAGES
from robustbench_bcos.bench.store import Store
from robustbench_bcos.bench.units import Unit, of_unit
from robustbench_bcos.core.errors import RequestError


class RunJob(AbstractRowsJob):
    """Carries out units of a run."""

    def plan(self, config: RunConfig, order: Mapping[str, Any]) -> Request:
        """The run."""
        digests = {int(index): digest for index, digest in order["images"].items()}
        return replan(config, RunIdentity.from_json(order["identity"]), digests)

    def begin(self, unit: Unit) -> Callable[[Store], Iterator[Sequence[Row]]]:
        """A stage of a model."""
        request = of_unit(self.asked, unit)
        source = next(source for source in request.sources if source.name == unit.model)
        model, cells = request.models.get(source), [request.cells[place] for place in unit.cells]

        def rows(own: Store) -> Iterator[Sequence[Row]]:
            _wait_for_attacks(own, unit, request)
            for progress in STAGES[unit.stage](request, model, cells, own, BatchSize(unit.batch_size)):
                yield progress.rows

        return rows


def _wait_for_attacks(known: Store, unit: Unit, request: Request) -> None:
    """See that what the unit needs is there: a shared file system may show it late.

    Raises:
        RequestError: it is not.
    """
    until = monotonic() + LATE
    # Evidence also needs what was made on other models.
    needed = [cell for cell in request.cells if unit.stage == "evidence" or cell.model == unit.model]
    while unit.stage != "attack" and any(len(known.done(cell)) < len(request.subset) for cell in needed):
        if monotonic() > until:
            raise RequestError(
                f"a job on {socket.gethostname()} does not see what other jobs have found in {known.beside}: give "
                "--out a folder that all machines share"
            )
        sleep(1.0)
