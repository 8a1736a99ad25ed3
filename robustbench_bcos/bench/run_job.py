"""What a job of a run does: it plans the run again, sees that it is the same run, and carries out units of it."""

import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import torch

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
from robustbench_bcos.core.plugins import load_plugins


class RunJob(AbstractRowsJob):
    """Carries out units of a run."""

    def begin(self, unit: Unit) -> Callable[[Store], Iterator[Sequence[Row]]]:
        """A stage of a model."""
        request = of_unit(self._request, unit)
        source = next(source for source in request.sources if source.name == unit.model)
        model, cells = request.models.get(source), [request.cells[place] for place in unit.cells]

        def rows(own: Store) -> Iterator[Sequence[Row]]:
            _wait_for_attacks(own, unit, request)
            for progress in STAGES[unit.stage](request, model, cells, own, BatchSize(unit.batch_size)):
                yield progress.rows

        return rows

    @cached_property
    def _request(self) -> Request:
        order = self.order
        # Plug-ins first: names in the configuration may be theirs.
        _load_plugins(order["configuration"])
        configuration = RunConfig.model_validate(order["configuration"])
        identity = RunIdentity.from_json(order["identity"])
        torch.set_num_threads(configuration.threads or self.threads or torch.get_num_threads())
        digests = {int(index): digest for index, digest in order["images"].items()}
        request = replan(configuration, identity, digests)
        torch.set_num_threads(request.threads)
        return request


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


def _load_plugins(configuration: Mapping[str, Any]) -> None:
    """Those that the run was submitted with, and no others."""
    here = socket.gethostname()
    files = [Path(file) for file in configuration["plugin"]]
    for file in files:
        expected = configuration["plugin_digests"].get(file.name)
        if not file.is_file() or sha256(file.read_bytes()).hexdigest() != expected:
            raise RequestError(
                f"plugin {file} on {here} is missing or another one than on the machine that submitted the run: copy it"
            )
    load_plugins(files)
