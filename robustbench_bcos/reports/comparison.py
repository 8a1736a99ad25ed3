"""Models, or runs, side by side: aligned rows, differences with their uncertainty, and what else differs."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from robustbench_bcos.bench.evidence.trust import least_trusted
from robustbench_bcos.bench.records import KEY, THREAT, USUAL
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.registry import unknown
from robustbench_bcos.core.statistics import (
    fisher,
    holm,
    mcnemar,
    newcombe,
    paired_bootstrap,
    wilson,
)
from robustbench_bcos.core.text import counted
from robustbench_bcos.reports.condition import fulfilled
from robustbench_bcos.reports.marks import legend, mark_notes
from robustbench_bcos.reports.results import Results, same_numbers

GROUPS = {"architecture": "architecture", "family": "family", "training": "training", "B": "b", "norm": "norm"}
"""What ``--by`` takes, and the column it means."""

SEED = 0
"""Of the bootstrap: the same comparison gives the same interval."""

VARIANT = tuple(column for column in KEY if column not in ("model", *THREAT))
"""What one model may have several rows of, for the same threat; part of a contender's name only then."""

NAMED = (
    "dataset",
    "subset",
    "images",
    *(column for column in VARIANT if column not in ("dataset", "seed")),
    "training",
    "architecture",
    "encoding",
    "evidence",
)
"""What is listed where it differs between rows that are put side by side."""

INCOMPARABLE = ("dataset", "subset", "images", "space", "select", "criterion")
"""Where these differ, a difference says nothing about the models."""


class Comparison(NamedTuple):
    """A table, and what must be known to read it."""

    table: pd.DataFrame
    notes: list[str]
    legend: Sequence[str] = ()
    """What the marks of its numbers mean; it stays with the table where notes do not."""


def compare(
    results: Sequence[Results], *, by: str | None = None, reference: str | None = None, where: str | None = None
) -> Comparison:
    """Put every model of every run side by side, threat by threat.

    Differences are to the reference. Where both know which images are robust, and the images are the same, p is the
    exact McNemar test's and the interval a paired bootstrap's; otherwise Fisher's and Newcombe's, on counts. P values
    are corrected by Holm over all rows of the table.

    Args:
        results: runs and CSVs.
        by: ``architecture``, ``family``, ``training``, ``B`` or ``norm``: group rows by it.
        reference: the contender differences are to; by default the first.
        where: a condition over the columns of ``results.csv``, as :func:`~robustbench_bcos.reports.condition.fulfilled`
            reads it.

    Raises:
        RequestError: no such group, reference or column, or nothing is left to compare.
    """
    rows = contenders(results, where)
    first = _reference(rows, reference)
    table = _against(rows, results, first)
    if by is not None:
        check_group(by)
        # A row's group is shown before everything else, and rows of one group stay together.
        table.insert(0, by, rows[GROUPS[by]].to_numpy())
        table = table.sort_values([by, "threat"], kind="stable")
    notes = [*row_notes(rows, "contender"), *differences(rows)]
    if rows["contender"].nunique() > 1:
        tests = int(table["p"].notna().sum())
        notes.insert(
            0, f"Differences are to {first}; p of exact tests, corrected by Holm over {counted(tests, 'row')}."
        )
    else:
        table = table.drop(columns=[*_NO_DIFFERENCE])
    return Comparison(table, notes, legend(table["trust"]))


def check_group(by: str) -> None:
    """Refuse what models cannot be grouped by.

    Raises:
        RequestError: with what they can.
    """
    if by not in GROUPS:
        raise unknown("group", by, GROUPS)


def contenders(results: Sequence[Results], where: str | None = None) -> pd.DataFrame:
    """All rows, each with the name of what is compared (``contender``) and under which threat (``threat``).

    Raises:
        RequestError: the condition cannot be read, or no row fulfils it.
    """
    parts = []
    for place, found in enumerate(results):
        parts.append(found.records.assign(source=place, row=range(len(found.records))))
    rows = pd.concat(parts, ignore_index=True)
    for column in ("epsilon", "step_size"):
        rows[column] = same_numbers(rows[column])
    rows = _filtered(rows, where)
    several = rows.groupby("model")["source"].nunique() > 1
    varying = [column for column in VARIANT if rows.groupby(["source", "model", *THREAT])[column].nunique().gt(1).any()]
    names = []
    for row in rows.to_dict("records"):
        parts_of_name = [str(row["model"]), *(f"{column} {row[column]}" for column in varying if row[column] != "")]
        parts_of_name += [f"({results[row['source']].source})"] if several[row["model"]] else []
        names.append(" ".join(parts_of_name))
    # One epsilon may have been written in two ways; it is shown in the first.
    written = {row["epsilon"]: row["eps"] for row in reversed(rows.to_dict("records"))}
    threats = [_threat(row, written) for row in rows.to_dict("records")]
    return rows.assign(contender=names, threat=threats)


UNKNOWN = ("encoding",)
"""Columns that are empty where the value is not known, rather than where there is none."""


def differences(rows: pd.DataFrame, columns: Sequence[str] = NAMED) -> list[str]:
    """What else differs between rows that were put side by side, a sentence for each column."""
    notes = []
    # It is empty in a run, and missing in its CSV.
    rows = rows.assign(**{column: rows[column].mask(rows[column] == "") for column in UNKNOWN if column in columns})
    sources_share_models = rows.groupby("model")["source"].nunique().gt(1).any()
    for column in columns:
        per_threat = rows.groupby("threat")[column].nunique()
        if (per_threat > 1).any():
            values: dict[str, list[str]] = {}
            apart = column in INCOMPARABLE
            name = "contender" if apart or sources_share_models else "model"
            there = rows["threat"].isin(per_threat.index[per_threat > 1]) & rows[column].notna()
            for row in rows[there].to_dict("records"):
                values.setdefault(str(row[column]), []).append(str(row[name]))
            told = "; ".join(f"{value}: {', '.join(dict.fromkeys(names))}" for value, names in values.items())
            prefix = "Not comparable: " if apart else ""
            notes.append(f"{prefix}{column} differs ({told}).")
    return notes


def row_notes(rows: pd.DataFrame, name: str) -> list[str]:
    """Which rows are marked, and why, by the column that names them; and what all have that a reader may not expect."""
    common = {column: rows[column].iloc[0] for column in USUAL if rows[column].nunique(dropna=False) == 1}
    unusual = {column: value for column, value in common.items() if isinstance(value, str) and value != USUAL[column]}
    return [
        *mark_notes((str(row[name]), row) for row in rows.to_dict("records")),
        *(f"Every row: {column} {value}." for column, value in unusual.items()),
    ]


def _against(rows: pd.DataFrame, results: Sequence[Results], first: str) -> pd.DataFrame:
    lines = []
    references = {row["threat"]: row for row in rows[rows["contender"] == first].to_dict("records")}
    for row in rows.to_dict("records"):
        interval = wilson(int(row["worst_correct"]), int(row["images"]))
        line = {
            "threat": row["threat"],
            "model": row["contender"],
            "correct": int(row["worst_correct"]),
            "images": int(row["images"]),
            "accuracy": row["worst_correct"] / row["images"],
            "trust": row["trust"],
            "ci_low": interval.low,
            "ci_high": interval.high,
        }
        reference = references.get(row["threat"])
        comparable = reference is not None and reference["contender"] != row["contender"]
        missing = _NO_DIFFERENCE | {"test": "no reference"} if reference is None else _NO_DIFFERENCE
        lines.append(line | (_difference(row, reference, results) if comparable and reference else missing))
    table = pd.DataFrame(lines)
    table["p"] = corrected(table["p"])
    return table


_NO_DIFFERENCE = {"difference": None, "difference_trust": "", "low": None, "high": None, "p": None, "test": ""}


def _difference(
    row: Mapping[Hashable, Any], reference: Mapping[Hashable, Any], results: Sequence[Results]
) -> dict[str, Any]:
    if any(row[column] != reference[column] for column in INCOMPARABLE):
        return _NO_DIFFERENCE | {"test": "not comparable"}
    change = (row["worst_correct"] - reference["worst_correct"]) / row["images"]
    pair = [_survivors(one, results) for one in (reference, row)]
    if all(pair):
        old, new = ([float(bit) for bit in bits] for bits in pair)
        moves = list(zip(old, new, strict=True))
        bounds = paired_bootstrap(old, new, seed=SEED)
        p, test = mcnemar(moves.count((1, 0)), moves.count((0, 1))), "McNemar"
    else:
        counts = [int(one[column]) for one in (row, reference) for column in ("worst_correct", "images")]
        bounds, p, test = newcombe(*counts), fisher(*counts), "Fisher"
    trust = least_trusted([row["trust"], reference["trust"]])
    bounded = {"low": bounds.low, "high": bounds.high}
    return {"difference": change, "difference_trust": trust, **bounded, "p": p, "test": test}


def _survivors(row: Mapping[Hashable, Any], results: Sequence[Results]) -> str:
    """Which images nothing broke, where that is known."""
    survivors: str = results[row["source"]].survivors.get(row["row"], "")
    return survivors


def corrected(ps: pd.Series) -> pd.Series:
    """P values corrected by Holm for as many as there are; those that are missing stay so."""
    return pd.Series(holm(ps.astype(float).tolist()), index=ps.index, dtype=float)


def _reference(rows: pd.DataFrame, asked: str | None) -> str:
    return known(asked, list(rows["contender"].unique()), "reference")


def known(asked: str | None, names: list[str], kind: str) -> str:
    """The reference of differences: the name that was asked for, or else the first.

    Raises:
        RequestError: none is called so.
    """
    if asked is None:
        return names[0]
    if asked not in names:
        raise unknown(kind, asked, names)
    return asked


def _filtered(rows: pd.DataFrame, where: str | None) -> pd.DataFrame:
    if where is None:
        return rows
    kept = fulfilled(rows, where)
    if not kept.any():
        raise RequestError(f"--filter {where!r} leaves no rows: leave it out to see all")
    return rows[kept]


def _threat(row: Mapping[Hashable, Any], written: Mapping[Any, str]) -> str:
    parts = [row["attack"], row["norm"], written[row["epsilon"]]]
    parts += [counted(row["steps"], "step")] if row["steps"] else []
    parts += [counted(row["restarts"], "restart")] if row["restarts"] != 1 else []
    return " ".join(map(str, parts))
