"""What jobs of every kind do: they see that they are where the work was submitted, and answer, whatever happens."""

import os
import secrets
import socket
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any, ClassVar

from robustbench_bcos.bench.config import RunConfig
from robustbench_bcos.bench.executor import AnyUnit
from robustbench_bcos.bench.job_folder import PART, WHOLE, JobFolder
from robustbench_bcos.bench.provenance import code_digest, commit
from robustbench_bcos.bench.rows import Row
from robustbench_bcos.bench.store import Store
from robustbench_bcos.core.errors import Broken, RequestError, named_reason_of
from robustbench_bcos.core.plugins import load_plugins

EVERY = 60.0
"""Seconds after which a job shows what it has so far: a machine that vanishes takes no more with it."""


class AbstractJob(ABC):
    """A process, or a part of one, that carries out units.

    Args:
        place: the folder that the job folder is in.
        digest: of the order that the submitter wrote.
        threads: CPU threads where the order does not say.
    """

    def __init__(self, place: Path, digest: str, threads: int | None = None) -> None:
        self.jobs = JobFolder(place)
        self.threads = threads
        self._digest = digest

    def carry_out(self, unit: AnyUnit, check: Callable[[], None] = lambda: None) -> None:
        """Leave what a unit gives in the job folder, or why there is nothing; no :class:`Exception` passes.

        Args:
            unit: what to do.
            check: called on the way; what it raises ends the work.
        """
        attempt = secrets.token_hex(4)
        try:
            self.attempt(unit, attempt, check)
        except (RequestError, Broken) as error:
            self.jobs.fail(unit, attempt, error)
        except Exception as error:
            failed = Broken(
                f"a job on {socket.gethostname()} failed in {unit} ({named_reason_of(error)}): its traceback is in "
                f"{self.jobs.path}"
            )
            self.jobs.fail(unit, attempt, failed, traceback.format_exc())

    @abstractmethod
    def attempt(self, unit: Any, name: str, check: Callable[[], None]) -> None:  # noqa: ANN401 (of its kind)
        """Carry out a unit, and answer under the name of this attempt."""

    def show(self) -> None:  # noqa: B027 (most have shown it already)
        """Show what the unit under way has found so far."""

    @cached_property
    def order(self) -> dict[str, Any]:
        """What the submitter has told; the working folder becomes the one where it was told.

        Raises:
            RequestError: it is not seen here, or this machine has another code or no such folder.
        """
        order = self.jobs.read_order(self._digest)
        here = socket.gethostname()
        for what, found in {"code": code_digest(), "commit": commit(clean=True)}.items():
            # A machine without git knows no commit.
            if found is not None and order[what] is not None and found != order[what]:
                raise RequestError(
                    f"robustbench_bcos on {here} has another {what} than where the work was submitted ({found[:12]} "
                    f"and {order[what][:12]}): install the same on both, and change nothing while jobs run"
                )
        if not Path(order["directory"]).is_dir():
            raise RequestError(f"{here} has no folder {order['directory']}, where the work was submitted: share it")
        os.chdir(order["directory"])
        return order


class AbstractRowsJob(AbstractJob):
    """What its units give are rows of a store; what an earlier attempt has shown, a later one goes on from."""

    kinds: ClassVar[Sequence[type[Row]] | None] = None
    """The store's tables, those of a run by default."""
    options: ClassVar[type[RunConfig]] = RunConfig
    """Of what is asked for."""

    _show: Callable[[], None] | None = None

    @abstractmethod
    def plan(self, config: Any, order: Mapping[str, Any]) -> Any:  # noqa: ANN401 (of its kind)
        """What was asked for, once more here.

        Raises:
            RequestError: something is not as it was where the work was submitted.
        """

    @cached_property
    def asked(self) -> Any:  # noqa: ANN401 (of its kind)
        """What units are parts of, with as many threads as that has."""
        # Not above: those who ask how jobs are need none.
        import torch

        order = self.order
        config = ordered_configuration(self.options, order)
        torch.set_num_threads(config.threads or self.threads or torch.get_num_threads())
        asked = self.plan(config, order)
        torch.set_num_threads(asked.threads)
        return asked

    @abstractmethod
    def begin(self, unit: Any) -> Callable[[Store], Iterator[Sequence[Row]]]:  # noqa: ANN401
        """Get ready for a unit; gives what yields its rows, piece by piece, told which are known."""

    def show(self) -> None:
        """As far as the last piece."""
        if self._show is not None:
            self._show()

    def attempt(self, unit: AnyUnit, name: str, check: Callable[[], None]) -> None:
        """Leave the rows of a unit."""
        rows_of = self.begin(unit)
        with TemporaryDirectory(prefix="robustbench_bcos-") as scratch:
            rows, copy = Path(scratch) / "rows.sqlite", Path(scratch) / "copy.sqlite"

            def show(ending: str = PART) -> None:
                copy.unlink(missing_ok=True)
                own.copy_to(copy)
                self.jobs.publish(copy, unit, name, ending)

            with Store(rows, beside=self.jobs.database, kinds=self.kinds) as own:
                self._show = show
                try:
                    own.merge(*self.jobs.parts(unit))
                    shown = monotonic()
                    for some in rows_of(own):
                        own.add(*some)
                        check()
                        if monotonic() - shown > EVERY:
                            show()
                            shown = monotonic()
                except BaseException:
                    show()
                    raise
                finally:
                    self._show = None
                show(WHOLE)


def of_this_code() -> dict[str, Any]:
    """What every order tells, and every job compares."""
    return {"code": code_digest(), "commit": commit(clean=True), "directory": str(Path.cwd())}


def ordered_configuration(kind: type[RunConfig], order: Mapping[str, Any]) -> RunConfig:
    """The configuration of an order, whose names may be those of plug-ins.

    Raises:
        RequestError: a plug-in is not here, or is another one.
    """
    told = order["configuration"]
    files = [Path(file) for file in told["plugin"]]
    for file in files:
        expected = told["plugin_digests"].get(file.name)
        if not file.is_file() or sha256(file.read_bytes()).hexdigest() != expected:
            raise RequestError(
                f"plugin {file} on {socket.gethostname()} is missing or another one than on the machine that submitted "
                "the run: copy it"
            )
    load_plugins(files)
    return kind.model_validate(told)
