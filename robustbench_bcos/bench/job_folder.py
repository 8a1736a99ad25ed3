"""The folder in which work and its jobs meet: the order of jobs, and what they have found.

A job's answer takes its name at once and whole; where it is rows, it is a store of its own. Names are unique to an
attempt, so two attempts of one unit do no harm. Nothing here is executed.
"""

import json
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from robustbench_bcos.bench.executor import AnyUnit
from robustbench_bcos.bench.run_files import DATABASE, JOBS
from robustbench_bcos.bench.store import Store
from robustbench_bcos.core.disk import disk_explained, made_below, write_text, write_with
from robustbench_bcos.core.errors import Broken, RequestError
from robustbench_bcos.core.tables import read_json

ORDER, SUBMITTED, CANCELLED, LOGS = "order.json", "submitted.json", "cancelled", "logs"

WHOLE, PART, FAILED = ".whole", ".part", ".failed"
"""Endings: all rows of a unit, those that an attempt had when it was stopped, and why it cannot be carried out."""

TRIES = 3
"""To show a file."""

LATE = 60.0
"""Seconds after which a shared file system shows a file at the latest."""


class JobFolder:
    """``jobs`` in the folder of a run, or of trainings."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.path = run / JOBS

    @property
    def database(self) -> Path:
        """The store of the run, which jobs only read."""
        return self.run / DATABASE

    # What the submitter does.

    def open(self) -> None:
        """Make it, or find it."""
        made_below(self.run, JOBS)
        with disk_explained(self.path):
            for litter in (self.path / CANCELLED, *(file for file in self._files() if file.suffix == FAILED)):
                litter.unlink(missing_ok=True)

    def order(self, content: Mapping[str, Any]) -> str:
        """Write the order of jobs; gives its digest, which a job must find."""
        text = json.dumps({**content, "digest": _said(content)}, indent=1) + "\n"
        if not (self.path / ORDER).exists() or (self.path / ORDER).read_text(encoding="utf-8") != text:
            write_text(self.path / ORDER, text)
        return _digest(text.encode())

    def earlier_order(self) -> dict[str, Any]:
        """What jobs of an earlier session were told; empty where there was none, or it is not as it was written."""
        try:
            told: dict[str, Any] = dict(read_json(self.path / ORDER))
        except (OSError, ValueError, TypeError):
            return {}
        return told if told.pop("digest", None) == _said(told) else {}

    def log_folder(self) -> Path:
        """A new one, for one submission."""
        stamp = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"
        return made_below(self.path, LOGS, stamp)

    def record(self, executor: str, jobs: Iterable[tuple[AnyUnit, str]]) -> None:
        """Write down what has been submitted, for `--status` and for the next session.

        Args:
            executor: which.
            jobs: its name for the job of each unit, empty where it has none.
        """
        units = {unit.name: {"is": str(unit), "job": job} for unit, job in jobs}
        content = {"executor": executor, "folder": str(self.run.resolve()), "units": units}
        write_text(self.path / SUBMITTED, json.dumps(content, indent=1) + "\n")

    def submitted(self) -> tuple[str, dict[str, dict[str, str]]]:
        """The executor, and of each unit what it ``is`` and its ``job``; nothing where nothing was submitted.

        Jobs of the run that this folder is a copy of work for that one, and are not named here.
        """
        try:
            content = read_json(self.path / SUBMITTED)
            if content["folder"] != str(self.run.resolve()):
                return "", {}
            units = {
                str(name): {"is": str(one["is"]), "job": str(one["job"])} for name, one in content["units"].items()
            }
            return str(content["executor"]), units
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return "", {}

    def found(self) -> dict[str, set[str]]:
        """Endings of the files that there are, by unit; a listing also makes a shared file system look again."""
        found: dict[str, set[str]] = {}
        for file in self._files():
            found.setdefault(_unit_of(file), set()).add(file.suffix)
        return found

    def collect(self, store: Store, run: str) -> int:
        """Merge what jobs have found into the run's store and remove it; gives the number of damaged files.

        Whole files of a unit are alternatives; where none is sound, its parts are better than nothing. Files of
        another run are removed.
        """
        damaged, files = 0, sorted(self._files())
        mine = [file for file in files if file.name.startswith(f"{run}-")]
        wholes: dict[str, list[Path]] = {}
        for file in mine:
            if file.suffix == WHOLE:
                wholes.setdefault(_unit_of(file), []).append(file)
        while choice := {unit: candidates.pop(0) for unit, candidates in wholes.items() if candidates}:
            bad = store.merge(*choice.values())
            damaged += len(bad)
            # A unit that has been merged needs no other answer.
            wholes = {unit: wholes[unit] for unit, file in choice.items() if file in bad}
        sound = {_unit_of(file) for file in mine if file.suffix == WHOLE} - wholes.keys()
        store.merge(*(file for file in mine if file.suffix == PART and _unit_of(file) not in sound))
        with disk_explained(self.path):
            for file in files:
                file.unlink(missing_ok=True)
        return damaged

    def failure(self, unit: AnyUnit) -> Exception:
        """Why a unit cannot be carried out, as its job said it; what it said besides is a note."""
        (file, *_) = sorted(self.path.glob(f"{unit.name}.*{FAILED}"))
        try:
            said: dict[str, str] = read_json(file)
            kind = RequestError if said["kind"] == RequestError.__name__ else Broken
            told = kind(said["sentence"])
            if said["details"]:
                told.add_note(said["details"])
            return told
        except (OSError, ValueError, TypeError, KeyError) as error:
            return Broken(f"a job failed and {file} does not say why ({error}): look at the logs in {self.path / LOGS}")

    def clear(self) -> None:
        """Remove all but logs, once the run has everything."""
        with disk_explained(self.path):
            for entry in self.path.iterdir():
                if not entry.is_dir() or entry.is_symlink():
                    entry.unlink(missing_ok=True)

    def cancel(self) -> None:
        """Tell a submitter that is at work to stop."""
        write_text(made_below(self.run, JOBS) / CANCELLED, "")

    @property
    def cancelled(self) -> bool:
        """Whether somebody has done so."""
        return (self.path / CANCELLED).exists()

    def _files(self) -> Iterator[Path]:
        # A pipe would be waited for, and a folder is no answer.
        files = (file for file in self.path.iterdir() if file.suffix in (WHOLE, PART, FAILED))
        return (file for file in files if file.is_file() and not file.is_symlink())

    # What a job does.

    def read_order(self, digest: str, patience: float = LATE) -> dict[str, Any]:
        """What the submitter has told, once it is seen here.

        Raises:
            RequestError: it is not seen, or is something else.
        """
        until = time.monotonic() + patience
        while True:
            content = self._read_order()
            if _digest(content) == digest:
                told: dict[str, Any] = json.loads(content)
                return told
            if time.monotonic() > until:
                raise RequestError(
                    f"a job does not see {self.path / ORDER} as it was written: give --out a folder that all machines "
                    "share"
                )
            time.sleep(0.5)

    def _read_order(self) -> bytes:
        try:
            return (self.path / ORDER).read_bytes()
        except OSError:
            return b""

    def parts(self, unit: AnyUnit) -> list[Path]:
        """What stopped attempts of a unit have left."""
        return sorted(file for file in self._files() if file.suffix == PART and _unit_of(file) == unit.name)

    def publish(self, rows: Path, unit: AnyUnit, attempt: str, ending: str) -> None:
        """Show a copy of a store at once and whole."""
        file = self.path / f"{unit.name}.{attempt}{ending}"
        for left in reversed(range(TRIES)):
            try:
                with rows.open("rb") as source:
                    write_with(file, partial(shutil.copyfileobj, source))
                break
            except RequestError:
                # A submitter that begins removes what it takes for the half of a file that nobody writes any more.
                if not left:
                    raise
        if ending == WHOLE:
            (self.path / f"{unit.name}.{attempt}{PART}").unlink(missing_ok=True)

    def answered(self, unit: AnyUnit) -> str:
        """The text that a job has answered with.

        Raises:
            RequestError: it cannot be read.
        """
        (file, *_) = sorted(self.path.glob(f"{unit.name}.*{WHOLE}"))
        with disk_explained(self.path):
            return file.read_text(encoding="utf-8")

    def answer(self, unit: AnyUnit, attempt: str, text: str) -> None:
        """Show a text at once and whole."""
        write_text(self.path / f"{unit.name}.{attempt}{WHOLE}", text)

    def fail(self, unit: AnyUnit, attempt: str, error: Exception, details: str = "") -> None:
        """Say why a unit cannot be carried out."""
        said = {"kind": type(error).__name__, "sentence": str(error), "details": details}
        write_text(self.path / f"{unit.name}.{attempt}{FAILED}", json.dumps(said, indent=1) + "\n")


def _unit_of(file: Path) -> str:
    """Its name, in which slugs have dots, too."""
    return file.name.rsplit(".", maxsplit=2)[0]


def _said(content: Mapping[str, Any]) -> str:
    return _digest(json.dumps(content, sort_keys=True).encode())


def _digest(content: bytes) -> str:
    return sha256(content).hexdigest()
