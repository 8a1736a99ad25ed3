"""Rows of results wherever they come from: a run folder, or a CSV that one has written."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd

from robustbench_bcos.bench.cells import Cell
from robustbench_bcos.bench.evidence.trust import LEVELS, UNFINISHED, Judgement
from robustbench_bcos.bench.folder import is_of_this_version
from robustbench_bcos.bench.records import COLUMNS, KEY, TEXTS
from robustbench_bcos.bench.run_files import DATABASE, RESULTS, check_results, is_run
from robustbench_bcos.bench.store import Store
from robustbench_bcos.core.errors import RequestError, reason_of
from robustbench_bcos.core.tables import read_json
from robustbench_bcos.core.text import counted
from robustbench_bcos.reports.run_folder import RunFolder, read_run
from robustbench_bcos.reports.spreadsheet import as_written, csv_of

CORRECT = ("clean_correct", "robust_correct", "worst_correct")

COUNTS = ("images", *CORRECT)

WHOLE = (*COUNTS, "steps", "restarts", "seed")

OPTIONAL = ("step_size", *(column for column in COLUMNS if column.startswith("explanation_")))
"""Numbers that need not be there: attacks without steps have no step size, and not every run explains."""

NEEDED = (
    *(column for column, absent in KEY.items() if absent is None),
    "eps",
    "subset",
    *COUNTS,
    "weights_sha256",
    "version",
)

SAME_EPSILON = 1e-5
"""Relative difference up to which two epsilons are the same number, written twice: 0.0313725 and 8/255."""

SURVIVORS = "survivors"
"""Column of a baseline: for each image of the subset, in the order of their indices, 1 where nothing broke it."""


@dataclass(frozen=True, kw_only=True)
class Results:
    """Rows of results, checked; and which images are robust, where that is known."""

    source: Path
    records: pd.DataFrame
    survivors: dict[int, str]
    """By row: for each image, in the order of their indices, ``1`` where nothing broke it, else ``0``."""
    run: RunFolder | None = None


def read_results(path: Path) -> Results:
    """Read a run folder, or a CSV in the columns of ``results.csv``.

    A CSV of an older version lacks columns; they are added, empty.

    Raises:
        RequestError: there is nothing, it is damaged, something else, or holds a row twice or a count that is none.
    """
    check_results(path)
    if is_run(path):
        found = _from_run(path)
        _check(found)
        return found
    file = path / RESULTS if path.is_dir() else path
    found = _from_csv(file)
    _check(found)
    _check_unchanged(file)
    return found


def keys_of(results: Sequence[Results]) -> list[list[int]]:
    """A number for each row of each, equal where rows are of the same model and attack, however epsilon was written."""
    everything = pd.concat([found.records[list(KEY)] for found in results], ignore_index=True)
    for column in ("epsilon", "step_size"):
        everything[column] = same_numbers(everything[column])
    everything = everything.astype(object).where(everything.notna(), "")
    for column, absent in KEY.items():
        if absent is not None:
            everything[column] = everything[column].where(everything[column] != "", absent)
    numbers = iter(everything.groupby(list(KEY), sort=False).ngroup().tolist())
    return [[next(numbers) for _ in range(len(found.records))] for found in results]


def same_numbers(values: pd.Series) -> pd.Series:
    """The values, those that are the same number written twice replaced by the smallest of them."""
    numbers = pd.to_numeric(values)
    canonical: dict[float, float] = {}
    last = math.nan
    for value in sorted(numbers.dropna().unique()):
        if not value - last <= SAME_EPSILON * abs(value):
            last = value
        canonical[value] = last
    return numbers.map(canonical)


def _from_run(folder: Path) -> Results:
    run = read_run(folder)
    with Store(folder / DATABASE, reading=True) as store:
        cells = {cell.key: cell for cell in run.identity.cells}
        judgement = Judgement(store, run.identity)
        survivors = {place: _bits(store, judgement, cells[key]) for place, key in enumerate(run.cells)}
    return Results(source=folder, records=run.records, survivors=survivors, run=run)


def _bits(store: Store, judgement: Judgement, cell: Cell) -> str:
    broken = judgement.broken_elsewhere(cell)
    clean = store.clean(cell.model)
    rows = store.verdicts(cell)
    return "".join(str(int(clean[row.image].correct and not row.success and row.image not in broken)) for row in rows)


def certificate_of(baseline: Path) -> Path:
    """The file beside a baseline that says how it came about."""
    return baseline.with_name(f"{baseline.name}.birth.json")


def digest_of(text: str) -> str:
    """SHA-256 of a baseline, whatever ends its lines."""
    return sha256(text.encode()).hexdigest()


def _check_unchanged(file: Path) -> None:
    """Hold a CSV against the store beside it, or against the digest of a baseline; of a CSV alone nothing is known.

    Raises:
        RequestError: it is not as it was written.
    """
    run, certificate = file.parent, certificate_of(file)
    if file.name == RESULTS and is_run(run) and is_of_this_version(run):
        if _text(file) != csv_of(read_run(run).records):
            raise RequestError(f"{file} is not what its run measured: `report {run}` writes it again")
    elif certificate.is_file():
        try:
            digest = read_json(certificate).get("sha256")
        except (OSError, ValueError, AttributeError):
            raise RequestError(f"{certificate} is damaged: restore it, or remove it if {file} is right") from None
        # Baselines of older versions have none.
        if digest is not None and digest != digest_of(_text(file)):
            raise RequestError(
                f"{file} is not as `check --update` wrote it: restore it, update it again, or remove {certificate} if "
                "the change is meant"
            )


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace")


def _from_csv(file: Path) -> Results:
    # An empty cell reads as an empty text or as NaN.
    numbers = [column for column in COLUMNS if column not in TEXTS]
    try:
        records = pd.read_csv(
            file,
            dtype=dict.fromkeys((*TEXTS, SURVIVORS), str),
            keep_default_na=False,
            na_values=dict.fromkeys(numbers, ""),
        )
    except (OSError, ValueError) as error:
        raise RequestError(
            f"{file} cannot be read as CSV ({reason_of(error)}): give the results.csv of a run"
        ) from None
    for column in set(TEXTS) & set(records.columns):
        records[column] = records[column].map(as_written)
    missing = [column for column in NEEDED if column not in records]
    if missing:
        raise RequestError(
            f"{file} has no column {missing[0]!r}: it was not written by this tool, or by a version too old to "
            "compare; repeat its run"
        )
    # pd.NA, because NaN would be a float in columns of text.
    added = {column: [pd.NA] * len(records) for column in COLUMNS if column not in records}
    records = pd.concat([records, pd.DataFrame(added, index=records.index)], axis=1)
    # A word that is not known, or none at all, says that nothing was checked.
    records["trust"] = records["trust"].where(records["trust"].isin(LEVELS), "unchecked")
    survivors = dict(enumerate(records[SURVIVORS])) if SURVIVORS in records else {}
    return Results(source=file, records=records, survivors=survivors)


def _check(results: Results) -> None:
    records, source = results.records, results.source
    if results.run is not None and results.run.missing:
        raise RequestError(
            f"{source} lacks {counted(results.run.missing, 'cell')}: repeat the command that made it to finish"
        )
    if (records["reasons"] == UNFINISHED).any():
        raise RequestError(f"{source}: the evidence for its rows is not finished: repeat the command that made it")
    if records.empty:
        raise RequestError(f"{source} has no rows: there is nothing to compare")
    for column in (*WHOLE, "epsilon", *OPTIONAL):
        _check_numbers(results, column)
    (keys,) = keys_of([results])
    twice = pd.Series(keys).duplicated()
    if twice.any():
        row = int(np.argmax(twice))
        raise RequestError(
            f"{source}: rows {keys.index(keys[row]) + 1} and {row + 1} are of the same model and attack "
            f"({records['model'].iloc[row]}): keep one of them"
        )
    for row, bits in results.survivors.items():
        counts = (records["images"].iloc[row], records["worst_correct"].iloc[row])
        if set(bits) - {"0", "1"} or (bits and (len(bits), bits.count("1")) != counts):
            raise RequestError(f"{source}, row {row + 1}: {SURVIVORS} and worst_correct disagree: restore the file")


def _check_numbers(results: Results, column: str) -> None:
    records = results.records
    written, numbers = records[column], pd.to_numeric(records[column], errors="coerce")
    bad, said = ~np.isfinite(numbers.astype(float)), "a number"
    if column in OPTIONAL:
        bad &= written.notna() & (written.astype(str) != "")
    if column in ("epsilon", "step_size"):
        bad, said = bad | (numbers < 0), "a number of at least 0"
    if column in WHOLE:
        bad, said = bad | (numbers < 0) | (numbers % 1 != 0), "a whole number of at least 0"
    if column == "images":
        bad, said = bad | (numbers == 0), "a whole number of at least 1"
    if column in CORRECT:
        bad, said = bad | (numbers > records["images"]), "a whole number from 0 to that of images"
    if bad.any():
        row = int(np.argmax(bad))
        raise RequestError(f"{results.source}, row {row + 1}: {column} is {written.iloc[row]} and must be {said}")
