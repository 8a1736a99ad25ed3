"""The gate: does a run hold what a baseline promises, row by row, on the same images?"""

import fnmatch
import math
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import pandas as pd

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.registry import unknown
from robustbench_bcos.core.statistics import fisher_worse, holm, mcnemar_worse
from robustbench_bcos.reports.results import Results, keys_of

Status = Literal["held", "improved", "regressed", "missing", "extra"]

ACCURACIES = {
    "robust_accuracy_worst": "worst_correct",
    "robust_accuracy": "robust_correct",
    "clean_accuracy": "clean_correct",
}
"""Columns that are counts of images, and the column of the count."""

DISTANCES = ("mass", "centre", "changed")
"""What is better the smaller it is, of explanations."""

POINT = 0.01
"""A point is a hundredth: of the images, or of a measure."""

TRUST = "trust"
"""The column of rows that were sound and are suspect: these close the gate, whatever is gated."""

DEFAULT_TOLERANCE = "0.5points"


class Tolerance(NamedTuple):
    """How much may be lost before a row counts as regressed."""

    pattern: str
    """Of the models, or the rows, it is for."""
    amount: float
    unit: Literal["flips", "points"]

    @classmethod
    def parse(cls, text: str) -> "Tolerance":
        """Read ``2flips``, ``0.5points``, or either after ``NAME=``, a glob over models and names of rows.

        Raises:
            RequestError: it is none of these.
        """
        found = re.fullmatch(r"(?:(?P<pattern>.+)=)?(?P<amount>\d+(?:\.\d+)?)\s*(?P<unit>flips?|points?)", text.strip())
        if found is None:
            raise RequestError(f"--tolerance {text} must be like 2flips, 0.5points, or 'digits-*=1points'")
        unit: Literal["flips", "points"] = "flips" if found["unit"].startswith("flip") else "points"
        return cls(found["pattern"] or "*", float(found["amount"]), unit)

    def allowed(self, images: int | None) -> float:
        """What may be lost: images for counts, and a share where there are none."""
        if images is None:
            return self.amount * POINT
        return self.amount if self.unit == "flips" else self.amount * POINT * images


@dataclass(frozen=True, slots=True)
class Moved:
    """One row of one gated column, before and after."""

    name: str
    model: str
    column: str
    status: Status
    before: float | None
    after: float | None
    change: float | None
    """After - before: images for accuracies, the measure itself for explanations."""
    images: int | None
    """Images the counts are out of; ``None`` for measures."""
    p: float | None
    """P that images were lost (with ``both_ways``, moved), corrected by Holm; only where ``alpha`` was asked for."""
    note: str = ""

    @property
    def failed(self) -> bool:
        """Whether the gate closes for it."""
        return self.status in ("regressed", "missing", "extra")


@dataclass(frozen=True, slots=True)
class GateReport:
    """The gate's decision, and every row behind it."""

    rows: tuple[Moved, ...]
    """Failed ones first, then by how much they moved."""
    notes: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether everything held."""
        return not any(row.failed for row in self.rows)

    @property
    def summary(self) -> str:
        """One sentence."""
        counts = {status: sum(row.status == status for row in self.rows) for status in ("held", "improved")}
        failed = [row for row in self.rows if row.failed]
        kinds = {status: sum(row.status == status for row in failed) for status in ("regressed", "missing", "extra")}
        words = [f"{count} {status}" for status, count in (kinds | counts).items() if count]
        return f"gate {'open' if self.passed else 'closed'}: {', '.join(words)}"


def check(
    results: Results,
    baseline: Results,
    *,
    tolerances: Sequence[Tolerance] = (),
    columns: Sequence[str] = ("robust_accuracy_worst",),
    alpha: float | None = None,
    both_ways: bool = False,
) -> GateReport:
    """Compare rows with those of a baseline.

    Args:
        results: what was measured now.
        baseline: what it is held against.
        tolerances: later ones override earlier ones for the models they name; by default half a point.
        columns: what is compared: accuracies, by their counts, and measures of explanations.
        alpha: count a row as regressed only where an exact test on the same images says so at this level over all
            rows: McNemar's where both know which images withstood, Fisher's where one does not.
        both_ways: an improvement beyond the tolerance closes the gate too: it may be an attack that broke.

    Raises:
        RequestError: the two are not of the same images, or a column cannot be gated.
    """
    _check_columns(columns, results, baseline)
    now, before = keys_of([results, baseline])
    _check_same_images(results, baseline, now, before)
    if "robust_accuracy_worst" in columns:
        _check_same_evidence(results, baseline, now, before)
    if not set(columns) <= set(ACCURACIES):
        _check_same_explanations(results, baseline, now, before)
    if not set(now) & set(before):
        raise RequestError(
            f"{results.source} and {baseline.source} have no row in common: repeat the run with the baseline's models "
            "and attacks, or make a new baseline with --update"
        )
    rows: list[Moved] = []
    for column in columns:
        pairs = [(before.index(key), now.index(key)) for key in before if key in now]
        ps = None
        if alpha is not None and column in ACCURACIES:
            ps = holm([_test(results, baseline, pair, column, both_ways) for pair in pairs])
        for place, pair in enumerate(pairs):
            p = None if ps is None else ps[place]
            rows.append(_moved(results, baseline, pair, column, tolerances, p, alpha, both_ways))
        rows += [_alone(baseline, row, column, "missing") for row, key in enumerate(before) if key not in now]
        rows += [_alone(results, row, column, "extra") for row, key in enumerate(now) if key not in before]
    rows += _distrusted(results, baseline, now, before)
    rows.sort(key=lambda row: (not row.failed, -_distance(row)))
    notes = [
        *_notes(results, baseline, now, before),
        *(f"{row.name}: {row.note}." for row in rows if row.column == TRUST),
    ]
    return GateReport(tuple(rows), tuple(notes))


def higher_is_better(column: str) -> bool:
    """The direction of a column."""
    return not any(f"_{measure}_" in column for measure in DISTANCES)


def _check_columns(columns: Sequence[str], results: Results, baseline: Results) -> None:
    measures = [column for column in results.records if str(column).startswith("explanation_")]
    for column in columns:
        if column not in (*ACCURACIES, *measures):
            raise unknown("column to gate", column, [*ACCURACIES, *map(str, measures)])
        for one in (results, baseline):
            if one.records[column].isna().all():
                raise RequestError(f"{one.source} has no values of {column}: repeat its run without --no-figures")


def _check_same_images(
    results: Results, baseline: Results, now: Sequence[tuple[object, ...]], before: Sequence[tuple[object, ...]]
) -> None:
    for row, key in enumerate(now):
        if key not in before:
            continue
        other = before.index(key)
        for column in ("slice", "images"):
            here, there = results.records[column].iloc[row], baseline.records[column].iloc[other]
            if here != there:
                raise RequestError(
                    f"{results.source} and {baseline.source} were measured on other images ({column} {here} and "
                    f"{there}, {_name(results, row)}): repeat the run on the baseline's images, or make a new baseline "
                    "with --update"
                )


def _check_same_evidence(
    results: Results, baseline: Results, now: Sequence[tuple[object, ...]], before: Sequence[tuple[object, ...]]
) -> None:
    """What more checks find is no regression."""
    for row, key in enumerate(now):
        if key in before:
            here, there = (_evidence(one, place) for one, place in ((results, row), (baseline, before.index(key))))
            if here != there:
                raise RequestError(
                    f"{results.source} and {baseline.source} were checked differently (evidence {here} and {there}, "
                    f"{_name(results, row)}): repeat the run with --evidence {there}, make a new baseline with "
                    "--update, or compare what the attacks alone left with --gate robust_accuracy"
                )


def _evidence(results: Results, row: int) -> str:
    """``off`` where an older version knew of none."""
    value = results.records["evidence"].iloc[row]
    return "off" if pd.isna(value) or not value else str(value)


def _distrusted(
    results: Results, baseline: Results, now: Sequence[tuple[object, ...]], before: Sequence[tuple[object, ...]]
) -> list[Moved]:
    """Rows that were sound and are suspect."""
    found = []
    for row, key in enumerate(now):
        if key not in before:
            continue
        trust = [one.records["trust"].iloc[place] for one, place in ((baseline, before.index(key)), (results, row))]
        if trust == ["sound", "suspect"]:
            model, name = str(results.records["model"].iloc[row]), _name(results, row)
            note = f"sound before and suspect now: {results.records['reasons'].iloc[row]}"
            found.append(Moved(name, model, TRUST, "regressed", None, None, None, None, None, note))
    return found


def _check_same_explanations(
    results: Results, baseline: Results, now: Sequence[tuple[object, ...]], before: Sequence[tuple[object, ...]]
) -> None:
    for row, key in enumerate(now):
        if key in before:
            here, there = (
                results.records["explanation"].iloc[row],
                baseline.records["explanation"].iloc[before.index(key)],
            )
            if not (pd.isna(here) or pd.isna(there)) and here != there:
                raise RequestError(
                    f"{results.source} and {baseline.source} were explained by other methods (explanation {here} and "
                    f"{there}, {_name(results, row)}): repeat the run with the baseline's --explanation"
                )


def _test(results: Results, baseline: Results, pair: tuple[int, int], column: str, both_ways: bool) -> float:
    """One-sided p of a loss; two-sided where an improvement closes the gate, too."""
    before, now = pair
    old, new = baseline.survivors.get(before, ""), results.survivors.get(now, "")
    known = column == "robust_accuracy_worst" or (
        column == "robust_accuracy" and _same_as_worst(results, now) and _same_as_worst(baseline, before)
    )
    if known and old and len(old) == len(new):
        moves = [f"{a}{b}" for a, b in zip(old, new, strict=True)]
        lost, won = moves.count("10"), moves.count("01")
        worse, better = mcnemar_worse(lost, won), mcnemar_worse(won, lost)
    else:
        names = (ACCURACIES[column], "images")
        ours = [int(results.records[name].iloc[now]) for name in names]
        theirs = [int(baseline.records[name].iloc[before]) for name in names]
        worse, better = fisher_worse(*ours, *theirs), fisher_worse(*theirs, *ours)
    return min(1.0, 2 * min(worse, better)) if both_ways else worse


def _same_as_worst(results: Results, row: int) -> bool:
    """Whether the attack's own count is the worst case, so that the survivors are its survivors."""
    return bool(results.records["worst_correct"].iloc[row] == results.records["robust_correct"].iloc[row])


def _moved(
    results: Results,
    baseline: Results,
    pair: tuple[int, int],
    column: str,
    tolerances: Sequence[Tolerance],
    p: float | None,
    alpha: float | None,
    both_ways: bool,
) -> Moved:
    before, now = pair
    model, name = str(results.records["model"].iloc[now]), _name(results, now)
    counted = ACCURACIES.get(column)
    images = int(results.records["images"].iloc[now]) if counted else None
    old, new = (
        float(found.records[counted or column].iloc[row]) for found, row in ((baseline, before), (results, now))
    )
    gain = new - old if higher_is_better(column) else old - new
    allowed = _tolerance((model, name), tolerances, significant=p is not None).allowed(images)
    # Counts are whole; the share of a point that a tolerance allows must not depend on how it is rounded.
    lost, won = -gain > allowed + 1e-9, gain > allowed + 1e-9
    certain = alpha is None or p is None or p < alpha
    vanished = math.isnan(new) and not math.isnan(old)
    closed = vanished or (certain and (lost or (won and both_ways)))
    status: Status = "regressed" if closed else "improved" if won else "held"
    return Moved(
        name,
        model,
        column,
        status,
        old,
        new,
        new - old,
        images,
        p,
        "" if images or not vanished else "no value",
    )


def _tolerance(names: tuple[str, str], tolerances: Sequence[Tolerance], *, significant: bool) -> Tolerance:
    matching = [tolerance for tolerance in tolerances if any(fnmatch.fnmatchcase(n, tolerance.pattern) for n in names)]
    if matching:
        return matching[-1]
    return Tolerance("*", 0.0, "flips") if significant else Tolerance.parse(DEFAULT_TOLERANCE)


def _alone(results: Results, row: int, column: str, status: Status) -> Moved:
    counted = ACCURACIES.get(column)
    value = float(results.records[counted or column].iloc[row])
    images = int(results.records["images"].iloc[row]) if counted else None
    before, after = (value, None) if status == "missing" else (None, value)
    model = str(results.records["model"].iloc[row])
    note = "not in this run" if status == "missing" else "not in the baseline"
    return Moved(_name(results, row), model, column, status, before, after, None, images, None, note)


def _notes(
    results: Results, baseline: Results, now: Sequence[tuple[object, ...]], before: Sequence[tuple[object, ...]]
) -> tuple[str, ...]:
    notes = []
    for column, what in {"weights_sha256": "weights", "version": "version of robustbench_bcos"}.items():
        other = {
            str(results.records["model"].iloc[row])
            for row, key in enumerate(now)
            if key in before and results.records[column].iloc[row] != baseline.records[column].iloc[before.index(key)]
        }
        if other:
            notes.append(f"Another {what} than in the baseline: {', '.join(sorted(other))}.")
    return tuple(notes)


def _distance(row: Moved) -> float:
    """How far a row moved, as a share; rows of one side are after those that moved."""
    if row.change is None:
        return -1.0
    if math.isnan(row.change):
        return math.inf if row.failed else 0.0
    return abs(row.change) / (row.images or 1)


def _name(results: Results, row: int) -> str:
    record: Mapping[Hashable, Any] = results.records.iloc[row].to_dict()
    parts = [record["model"], record["attack"], record["norm"], record["eps"]]
    parts += [f"{record['steps']} steps"] if record["steps"] else []
    extra = {"loss": record["loss"], "count": record["count"], "space": record["space"]}
    usual = {"count": "any", "space": "image"}
    parts += [str(value) for key, value in extra.items() if not pd.isna(value) and value and value != usual.get(key)]
    parts += [f"{record['restarts']} restarts"] if record["restarts"] != 1 else []
    return " ".join(map(str, parts))
