"""Baselines: the results of a run that later ones are compared with, and how they came about."""

import json
from pathlib import Path
from typing import Any

from robustbench_bcos.bench.run_files import PROVENANCE
from robustbench_bcos.core.disk import made, write_text
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.tables import read_json
from robustbench_bcos.reports.results import SURVIVORS, Results, certificate_of, digest_of
from robustbench_bcos.reports.spreadsheet import csv_of


def write_baseline(results: Results, file: Path) -> list[Path]:
    """Write ``FILE`` with a row per cell and which images are robust, and beside it how it came about.

    Raises:
        RequestError: the results are not a run's, or the file cannot be written.
    """
    birth = _birth(results)
    if file.is_dir():
        raise RequestError(f"--baseline {file} is a folder: give the name of a CSV file")
    records = results.records.assign(**{SURVIVORS: [results.survivors[row] for row in range(len(results.records))]})
    made(file.parent)
    text = csv_of(records)
    write_text(file, text)
    birth["sha256"] = digest_of(text)
    certificate = certificate_of(file)
    write_text(certificate, json.dumps(birth, indent=2) + "\n")
    return [file, certificate]


def _birth(results: Results) -> dict[str, Any]:
    """How results came about, from their run, or from the file that is beside tables without one."""
    run = results.run
    if run is None:
        beside = results.source.with_name(PROVENANCE)
        if not beside.is_file():
            raise RequestError(
                f"{results.source} is a CSV: give the run folder it was written in, which knows every image"
            )
        try:
            return {**read_json(beside)}
        except (OSError, ValueError, TypeError):
            raise RequestError(f"{beside} is damaged: restore it, or repeat the command that wrote it") from None
    known = ("started", "command", "commit", "device", "versions")
    birth: dict[str, Any] = {key: value for key, value in run.session.items() if key in known}
    return birth | {key: getattr(run.identity, key) for key in ("dataset", "images", "subset", "weights", "seed")}
