"""The folder of a run: who may write to it, and whether it holds the run that is asked for."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from robustbench_bcos.bench.identity import RunIdentity
from robustbench_bcos.bench.run_files import CONFIGURATION, DATABASE, LOCK, RESULTS, check_place, check_run
from robustbench_bcos.core.disk import disk_explained, emptied, held, sweep, write_text
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.tables import read_json
from robustbench_bcos.core.version import VERSION

LOCALISATION = "localisation"
"""In the identity of what `localise` has written, whose folders are like those of runs."""


@runtime_checkable
class Identity(Protocol):
    """All that decides the numbers of a run."""

    def to_json(self) -> dict[str, Any]:
        """In lists and dictionaries alone."""


class Session(TypedDict):
    """What each session says of itself, beside the identity of its run."""

    started: str
    command: str
    configuration: dict[str, Any]
    class_names: Sequence[str]
    images: Sequence[str]
    versions: dict[str, str]
    device: str
    commit: str | None


@dataclass(frozen=True)
class Description:
    """What ``run.json`` says of a run."""

    identity: RunIdentity
    sessions: tuple[Session, ...]
    """The last is the one that finished, if one has."""


@contextmanager
def open_run(folder: Path, identity: Identity, session: Session, *, overwrite: bool = False) -> Iterator[Path]:
    """Hold a run folder for this process alone; make it, or check that it is this run's.

    Args:
        folder: where the run is, or will be.
        identity: all that decides the run's numbers; a run with another identity is another run.
        session: what else ``run.json`` says of this session; every session adds one.
        overwrite: remove the run that is there, whichever it is, and begin anew. What is no run is never removed.

    Raises:
        RequestError: the folder is not writable, is something else, belongs to another configuration, is damaged, or
            is in use.
    """
    with disk_explained(folder):
        check_place(folder)
    with alone(folder):
        known = _read(folder) if (folder / CONFIGURATION).exists() else None
        if known is not None and not overwrite and _written_by(known) != VERSION:
            # Checked first, because an old identity would otherwise be reported as a different request.
            read_description(folder)
        if known is not None and overwrite:
            # Only a folder that holds a run is emptied: anything else may be the user's work.
            emptied(folder, keep=(LOCK,))
            known = None
        _refuse_lost_store(folder)
        asked = identity.to_json()
        if known is not None:
            _refuse_other_identity(folder, known["identity"], asked)
        sessions = [*(known["sessions"] if known else []), session]
        content: dict[str, Any] = {"identity": asked, "sessions": sessions}
        content["digest"] = _digest(content)
        write_text(folder / CONFIGURATION, json.dumps(content, indent=2) + "\n")
        yield folder


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep others from writing to a run folder; what they left when they were killed is removed.

    Raises:
        RequestError: another process writes to it, or it is not writable.
    """
    with held(folder / LOCK, busy=f"run {folder} is in use by another process: wait for it, or choose another --out"):
        sweep(folder)
        yield


def read_description(folder: Path) -> Description:
    """What ``run.json`` says of a run.

    Raises:
        RequestError: there is none, it is damaged, or another version of this package wrote it.
    """
    content = _read(folder)
    if LOCALISATION in content["identity"]:
        raise RequestError(
            f"run {folder} holds scores of `localise`, not robust accuracies: read its CSV files, or repeat the "
            "command that made it"
        )
    try:
        sessions = TypeAdapter(tuple[Session, ...]).validate_python(content["sessions"])
        return Description(RunIdentity.from_json(content["identity"]), sessions)
    except ValueError:
        raise RequestError(f"{folder / CONFIGURATION} {_not_of_this_version(content)}") from None


def read_localisation(folder: Path) -> dict[str, Any]:
    """The identity of what `localise` has written.

    Raises:
        RequestError: there is none, it is damaged, another version of this package wrote it, or `run` did.
    """
    content = _read(folder)
    if LOCALISATION not in content["identity"]:
        raise RequestError(f"run {folder} holds robust accuracies, not scores of `localise`: it is one of verb `run`")
    if _written_by(content) != VERSION:
        raise RequestError(f"{folder / CONFIGURATION} {_not_of_this_version(content)}")
    identity: dict[str, Any] = content["identity"]
    return identity


def _read(folder: Path) -> dict[str, Any]:
    file = folder / CONFIGURATION
    check_run(folder)
    try:
        content: dict[str, Any] = read_json(file)
        if not isinstance(content["identity"], dict) or not isinstance(content["sessions"], list):
            raise ValueError("identity or sessions are something else")
        if not content["sessions"]:
            raise ValueError("it names no session")
        if _written_by(content) == VERSION and content.get("digest") != _digest(content):
            raise ValueError("it is not as it was written")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RequestError(f"{file} is damaged ({error}): restore it, or choose another --out") from None
    return content


def is_of_this_version(folder: Path) -> bool:
    """Whether this version wrote a run, so that it can be read.

    Raises:
        RequestError: there is none, or it is damaged.
    """
    return _written_by(_read(folder)) == VERSION


def _digest(content: dict[str, Any]) -> str:
    written = json.dumps([content["identity"], content["sessions"]], sort_keys=True)
    return blake2b(written.encode(), digest_size=16).hexdigest()


def _written_by(content: dict[str, Any]) -> str:
    """The version that wrote the last session of a run, empty where it is not told: 0.2.0 did not."""
    try:
        return str(content["sessions"][-1]["versions"]["robustbench_bcos"])
    except (KeyError, TypeError):
        return ""


def _not_of_this_version(content: dict[str, Any]) -> str:
    if (version := _written_by(content)) == VERSION:
        return "is damaged: restore it, or choose another --out"
    return (
        f"was written by robustbench_bcos {version or '0.2.0 or earlier'}, and this is {VERSION}, or is damaged: read "
        f"it with {version or '0.2.0'}, or repeat the run in another folder"
    )


def _refuse_lost_store(folder: Path) -> None:
    """A store that is made anew beside finished results would end up as other results under their name."""
    database = folder / DATABASE
    if (folder / RESULTS).exists() and not (database.is_file() and database.stat().st_size):
        raise RequestError(
            f"run {folder} has {RESULTS}, and the {DATABASE} it was written from is missing or empty: restore it, or "
            "choose another --out"
        )


def _refuse_other_identity(folder: Path, known: dict[str, Any], asked: dict[str, Any]) -> None:
    for key in sorted(known.keys() | asked.keys()):
        if known.get(key) != asked.get(key):
            there, here = json.dumps(known.get(key)), json.dumps(asked.get(key))
            difference = f"{key} is {there} there and {here} here" if len(there + here) < 120 else f"other {key}"
            raise RequestError(
                f"run {folder} belongs to another configuration ({difference}): choose another --out, leave it out, or "
                "--overwrite that run"
            )
