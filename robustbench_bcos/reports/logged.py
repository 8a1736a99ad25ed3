"""What a tracker records of a run: its request, its numbers with their trust, and its files."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from robustbench_bcos.bench.tracker import Logged
from robustbench_bcos.reports.run_folder import RunFolder

NUMBERS = (
    *("clean_accuracy", "robust_accuracy", "ci_low", "ci_high"),
    *("robust_accuracy_worst", "worst_ci_low", "worst_ci_high"),
)
"""Columns that are logged as metrics."""


def logged(run: RunFolder, files: Sequence[Path]) -> Logged:
    """A run for a tracker.

    A number that is not sound is never logged alone: beside it stands a metric ``suspect`` or ``unchecked`` of 1, and
    among the parameters its trust with the reasons.

    Args:
        run: what was measured.
        files: what was written of it; folders are left out.
    """
    identity = run.identity.to_json()
    parameters = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in identity.items()
        if name not in ("cells", "weights")
    }
    metrics: dict[str, float] = {}
    rows = run.records.to_dict(orient="records")
    for row, name in zip(rows, _names(run), strict=True):
        metrics |= {f"{name}/{column}": float(row[column]) for column in NUMBERS}
        metrics |= {f"{name}/{mark}": float(row["trust"] == mark) for mark in ("suspect", "unchecked")}
        reasons = f": {row['reasons']}" if row["reasons"] else ""
        parameters[f"{name}/trust"] = f"{row['trust']}{reasons}"
    return Logged(
        folder=run.folder,
        key=hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16],
        parameters=parameters,
        metrics=metrics,
        files=[file for file in files if file.is_file()],
    )


def _names(run: RunFolder) -> list[str]:
    """Model, threat and attack of each row, or the whole key of the cell where these are those of several."""
    rows = run.records.to_dict(orient="records")
    short = [f"{row['model']}/{row['norm']} {row['eps']} {row['attack']}" for row in rows]
    counts = Counter(short)
    return [name if counts[name] == 1 else key for name, key in zip(short, run.cells, strict=True)]
