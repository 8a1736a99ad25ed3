"""What is where of what jobs carry out: done, submitted, to be merged, or missing."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from robustbench_bcos.bench.dispatch import find_job
from robustbench_bcos.bench.executor import Handle
from robustbench_bcos.bench.folder import read_description
from robustbench_bcos.bench.job_folder import FAILED, LOGS, PART, WHOLE, JobFolder
from robustbench_bcos.bench.run_files import DATABASE, LOCK, RESULTS
from robustbench_bcos.bench.store import Store
from robustbench_bcos.core.disk import is_held
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.text import counted

STATES = {WHOLE: "answered, and not merged yet", FAILED: "failed", PART: "partly answered"}
"""What the file of a unit says of it; in this order."""


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """How much of what was asked for a folder holds, from any process or job."""

    part: str
    """What is counted apart: cell, model."""
    amount: str
    """What is counted: images, pictures, epochs."""
    parts: Mapping[str, tuple[int, int | None]]
    """Of each part, how many are done and how many are missing, where that is known."""
    results: Path | None
    """Where results are, of what is complete."""


@dataclass(frozen=True, kw_only=True)
class Status:
    """What is known of a folder without carrying out anything."""

    inventory: Inventory
    units: list[tuple[str, str, str]]
    """What was submitted last: the unit, its job, and its state."""
    sentence: str
    """How it stands as a whole."""


def inventory(run: Path) -> Inventory:
    """Of a run: an image of a cell is done when its verdict is in the store.

    Raises:
        RequestError: it is no run, or of another version.
    """
    description = read_description(run)
    images = description.identity.images
    done: dict[str, int] = {}
    if (run / DATABASE).is_file():
        with Store(run / DATABASE, reading=True) as store:
            done = {cell.key: len(store.done(cell)) for cell in description.identity.cells}
    parts = {cell.key: (done.get(cell.key, 0), images - done.get(cell.key, 0)) for cell in description.identity.cells}
    results = run / RESULTS
    return Inventory(part="cell", amount="images", parts=parts, results=results if results.is_file() else None)


def status_of(folder: Path, found: Inventory) -> Status:
    """Look at a folder, finished or not.

    Args:
        folder: of a run, of trainings.
        found: in it.
    """
    return Status(inventory=found, units=_units(JobFolder(folder)), sentence=_sentence(folder, found.results))


def cancel(folder: Path) -> str:
    """End the jobs of a folder, and the process that submits them; says what was done.

    Raises:
        RequestError: nothing of it is submitted.
    """
    jobs = JobFolder(folder)
    executor, units = jobs.submitted()
    if not units:
        raise RequestError(f"nothing of {folder} is submitted: there is nothing to cancel")
    at_work = is_held(folder / LOCK)
    if at_work:
        jobs.cancel()
    found = [handle for one in units.values() if (handle := find_job(executor, one["job"])) is not None]
    for handle in found:
        handle.cancel()
    told = ", and the process that submits them stops" if at_work else ""
    ended = counted(len(found), "job")
    return f"Cancelled {ended} of {folder}{told}; what they have found is kept, and the same command continues"


def _units(jobs: JobFolder) -> list[tuple[str, str, str]]:
    executor, units = jobs.submitted()
    files = jobs.found() if units else {}
    return [
        (one["is"], one["job"], _state(files.get(name, set()), find_job(executor, one["job"]), one["job"]))
        for name, one in units.items()
    ]


def _state(endings: set[str], handle: Handle | None, job: str) -> str:
    for ending in (WHOLE, FAILED):
        if ending in endings:
            return STATES[ending]
    if handle is not None:
        return handle.state
    if PART in endings:
        return STATES[PART]
    return "has ended without an answer" if job else "not answered"


def _sentence(folder: Path, results: Path | None) -> str:
    # A training in the command's own process holds a lock of its model's name.
    if any(map(is_held, folder.glob("*.lock"))):
        return "A process is at work on it."
    if results is not None:
        return f"Complete: its results are in {results}."
    logs = JobFolder(folder).path / LOGS
    told = f", and submits only what is missing. Logs are in {logs}." if logs.is_dir() else "."
    return f"No process is at work on it: the same command continues it{told}"
