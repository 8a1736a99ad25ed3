"""What a job does: it plans the run again, sees that it is the same run, and carries out units of it."""

import os
import secrets
import socket
import traceback
from collections.abc import Callable, Mapping
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, sleep
from typing import Any

import torch

from robustbench_bcos.bench.batch_size import BatchSize
from robustbench_bcos.bench.config import RunConfig
from robustbench_bcos.bench.identity import RunIdentity
from robustbench_bcos.bench.job_folder import LATE, PART, WHOLE, JobFolder
from robustbench_bcos.bench.provenance import code_digest, commit
from robustbench_bcos.bench.request import Request, replan
from robustbench_bcos.bench.runner import STAGES
from robustbench_bcos.bench.store import Store
from robustbench_bcos.bench.units import Unit, of_unit
from robustbench_bcos.core.errors import Broken, RequestError, named_reason_of
from robustbench_bcos.core.plugins import load_plugins

EVERY = 60.0
"""Seconds after which a job shows what it has so far: a machine that vanishes takes no more with it."""


class Stopped(BaseException):
    """The job must end, and what it has found is kept; nothing may catch it on its way."""


class Job:
    """A process, or a part of one, that carries out units.

    Args:
        run: the folder of the run.
        digest: of the order that the submitter wrote.
        threads: CPU threads where the request does not say.
    """

    def __init__(self, run: Path, digest: str, threads: int | None = None) -> None:
        self.jobs = JobFolder(run)
        self._digest = digest
        self._threads = threads
        self._show: Callable[[], None] = lambda: None

    def carry_out(self, unit: Unit, check: Callable[[], None] = lambda: None) -> None:
        """Leave the rows of a unit in the job folder, or why there are none; no :class:`Exception` passes.

        Args:
            unit: what to do.
            check: called on the way; what it raises ends the work.
        """
        attempt = secrets.token_hex(4)
        try:
            self._carry_out(unit, attempt, check)
        except (RequestError, Broken) as error:
            self.jobs.fail(unit, attempt, error)
        except Exception as error:
            failed = Broken(
                f"a job on {socket.gethostname()} failed in {unit} ({named_reason_of(error)}): its traceback is in "
                f"{self.jobs.path}"
            )
            self.jobs.fail(unit, attempt, failed, traceback.format_exc())

    def show(self) -> None:
        """Show what the unit under way has found so far."""
        self._show()

    def _carry_out(self, unit: Unit, attempt: str, check: Callable[[], None]) -> None:
        request = of_unit(self._request, unit)
        source = next(source for source in request.sources if source.name == unit.model)
        model, cells = request.models.get(source), [request.cells[place] for place in unit.cells]
        with TemporaryDirectory(prefix="robustbench_bcos-") as scratch:
            rows, copy = Path(scratch) / "rows.sqlite", Path(scratch) / "copy.sqlite"

            def show(ending: str = PART) -> None:
                copy.unlink(missing_ok=True)
                own.copy_to(copy)
                self.jobs.publish(copy, unit, attempt, ending)

            with Store(rows, beside=self.jobs.database) as own:
                self._show = show
                try:
                    _wait_for_attacks(own, unit, request)
                    own.merge(*self.jobs.parts(unit))
                    shown = monotonic()
                    size = BatchSize(unit.batch_size)
                    for progress in STAGES[unit.stage](request, model, cells, own, size):
                        own.add(*progress.rows)
                        check()
                        if monotonic() - shown > EVERY:
                            show()
                            shown = monotonic()
                except BaseException:
                    show()
                    raise
                finally:
                    self._show = lambda: None
                show(WHOLE)

    @cached_property
    def _request(self) -> Request:
        order = self.jobs.read_order(self._digest)
        here = socket.gethostname()
        for what, found in {"code": code_digest(), "commit": commit(clean=True)}.items():
            # A machine without git knows no commit.
            if found is not None and order[what] is not None and found != order[what]:
                raise RequestError(
                    f"robustbench_bcos on {here} has another {what} than where the run was submitted ({found[:12]} and "
                    f"{order[what][:12]}): install the same on both, and change nothing while jobs run"
                )
        if not Path(order["directory"]).is_dir():
            raise RequestError(f"{here} has no folder {order['directory']}, where the run was submitted: share it")
        os.chdir(order["directory"])
        # Plug-ins first: names in the configuration may be theirs.
        _load_plugins(order["configuration"], here)
        configuration = RunConfig.model_validate(order["configuration"])
        identity = RunIdentity.from_json(order["identity"])
        torch.set_num_threads(configuration.threads or self._threads or torch.get_num_threads())
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


def _load_plugins(configuration: Mapping[str, Any], here: str) -> None:
    """Those that the run was submitted with, and no others."""
    files = [Path(file) for file in configuration["plugin"]]
    for file in files:
        expected = configuration["plugin_digests"].get(file.name)
        if not file.is_file() or sha256(file.read_bytes()).hexdigest() != expected:
            raise RequestError(
                f"plugin {file} on {here} is missing or another one than on the machine that submitted the run: copy it"
            )
    load_plugins(files)
