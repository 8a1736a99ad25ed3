"""What is where of a run that jobs carry out: done, submitted, to be merged, or missing."""

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

STATES = {WHOLE: "answered, and not merged yet", FAILED: "failed", PART: "partly answered"}
"""What the file of a unit says of it; in this order."""


@dataclass(frozen=True, kw_only=True)
class Status:
    """What is known of a run without carrying out any of it."""

    cells: dict[str, tuple[int, int]]
    """Of each cell, images with a verdict in the run's store, and images without one."""
    units: list[tuple[str, str, str]]
    """What was submitted last: the unit, its job, and its state."""
    sentence: str
    """Where the run is as a whole."""


def status_of(run: Path) -> Status:
    """Look at a run, finished or not.

    Raises:
        RequestError: it is no run, or of another version.
    """
    description = read_description(run)
    images = description.identity.images
    done: dict[str, int] = {}
    if (run / DATABASE).is_file():
        with Store(run / DATABASE, reading=True) as store:
            done = {cell.key: len(store.done(cell)) for cell in description.identity.cells}
    cells = {cell.key: (done.get(cell.key, 0), images - done.get(cell.key, 0)) for cell in description.identity.cells}
    return Status(cells=cells, units=_units(JobFolder(run)), sentence=_sentence(run))


def cancel(run: Path) -> str:
    """End the jobs of a run, and the process that submits them; says what was done.

    Raises:
        RequestError: nothing of it is submitted.
    """
    jobs = JobFolder(run)
    executor, units = jobs.submitted()
    if not units:
        raise RequestError(f"nothing of {run} is submitted: there is nothing to cancel")
    at_work = is_held(run / LOCK)
    if at_work:
        jobs.cancel()
    found = [handle for one in units.values() if (handle := find_job(executor, one["job"])) is not None]
    for handle in found:
        handle.cancel()
    told = ", and the process that submits them stops" if at_work else ""
    return f"{len(found)} jobs of {run} are cancelled{told}; what they have found is kept, and `run` continues"


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


def _sentence(run: Path) -> str:
    if (run / RESULTS).is_file():
        return f"Complete: its results are in {run / RESULTS}."
    if is_held(run / LOCK):
        return "A process is at work on it, and merges what jobs find."
    return (
        f"No process is at work on it: the same command continues it, and submits only what is missing. Logs are in "
        f"{run / JobFolder(run).path.name / LOGS}."
    )
