"""Names of the files of a run, and whether a folder is one. Importing this imports no torch."""

from pathlib import Path

from robustbench_bcos.core.errors import RequestError

CONFIGURATION = "run.json"
DATABASE = "run.sqlite"
LOCK = "run.lock"
JOBS = "jobs"
"""The folder in which work and its jobs meet."""
RESULTS = "results.csv"
"""Written when a run is finished, and again by `report`."""
PROVENANCE = "provenance.json"
"""How tables came about that no store is behind."""


def is_run(folder: Path) -> bool:
    """Whether a run was written to a folder."""
    return (folder / CONFIGURATION).is_file()


def check_run(folder: Path) -> None:
    """Refuse what no run was written to.

    Raises:
        RequestError: it has no configuration.
    """
    if not is_run(folder):
        raise RequestError(f"{folder} is not a run: it has no {CONFIGURATION}; give a folder that `run` has written")


def check_results(path: Path) -> None:
    """Refuse what is neither a run folder, nor one with tables, nor a file.

    Raises:
        RequestError: it is not.
    """
    if path.is_dir() and not (path / PROVENANCE).is_file():
        check_run(path)
    elif not path.exists():
        raise RequestError(f"{path} does not exist: give a run folder, or a CSV that one has written")


def check_place(folder: Path) -> None:
    """Refuse to write a run to a file, or among other files.

    Raises:
        RequestError: that is what is there.
    """
    if folder.is_file():
        raise RequestError(f"--out {folder} is a file: choose a folder")
    if folder.is_dir() and not (folder / CONFIGURATION).exists():
        # A run that was killed before it had written its configuration leaves its lock and half a file.
        others = [entry.name for entry in folder.iterdir() if not entry.name.startswith((LOCK, CONFIGURATION))]
        if others:
            raise RequestError(f"--out {folder} holds other files ({others[0]}) and is not a run: choose a new folder")


MAPS = "maps.npz"
"""What every folder of explanations has, or each model's folder in it."""

EXPLANATIONS = (MAPS, "moving.gif", "panel_*", "models_*", "[0-9]*_explanation*.png")
"""Names of what `explain` writes."""


def check_free(folder: Path, *, overwrite: bool) -> None:
    """Refuse to write explanations among other files, so that no picture of an earlier command stands beside new ones.

    Args:
        folder: which may be missing or empty.
        overwrite: whether explanations may be in it; nothing else may.

    Raises:
        RequestError: it holds something else, or explanations that are not to be overwritten.
    """
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    for entry in entries:
        if not (any(map(entry.match, EXPLANATIONS)) or (entry / MAPS).is_file()):
            raise RequestError(f"--out {folder} holds other files ({entry.name}): choose a new folder")
    if entries and not overwrite:
        raise RequestError(f"--out {folder} holds explanations already: choose another folder, or --overwrite them")


def remove_explanations(folder: Path) -> None:
    """Remove what `explain` has written, and the folders that are empty then; anything else stays."""
    entries = sorted(folder.rglob("*"), reverse=True)
    for entry in entries:
        if entry.is_dir() and not entry.is_symlink():
            if not any(entry.iterdir()):
                entry.rmdir()
        elif any(map(entry.match, EXPLANATIONS)):
            entry.unlink()
