"""The gate: has a run become worse than a baseline, row by row, on the same images?"""

import fnmatch
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Literal, NamedTuple

import pandas as pd

from robustbench_bcos.bench.records import COLUMNS, USUAL
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.registry import unknown
from robustbench_bcos.core.statistics import fisher_worse, holm, mcnemar_worse
from robustbench_bcos.core.text import counted
from robustbench_bcos.explanations.similarity import MEASURES, Distance
from robustbench_bcos.reports.marks import legend, mark_notes
from robustbench_bcos.reports.results import SURVIVORS, Results, keys_of

Status = Literal["held", "improved", "regressed", "missing", "extra"]

ACCURACIES = {
    "robust_accuracy_worst": "worst_correct",
    "robust_accuracy": "robust_correct",
    "clean_accuracy": "clean_correct",
}
"""Columns that are counts of images, and the column of the count."""

HARMS = ("changed", "fooled")
"""Shares of images, of which fewer are better."""

MOVED = ("explanation_fooled_most", "explanation_withstood_least")
"""Columns of attacks on explanations."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """One row of one gated column, before and after."""

    name: str
    model: str
    column: str
    status: Status
    before: float | None = None
    after: float | None = None
    trust_before: str = ""
    """Trust of the baseline's row; empty where the column has none, as that of clean images."""
    trust_after: str = ""
    """The same of the run's."""
    change: float | None = None
    """After - before: images for accuracies, the measure itself for explanations."""
    images: int | None = None
    """Images the counts are out of; ``None`` for measures."""
    p: float | None = None
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
            rows: McNemar's where both know which images are robust, Fisher's where one does not.
        both_ways: an improvement beyond the tolerance closes the gate too: it may be an attack that broke.

    Raises:
        RequestError: the two are not of the same images, or a column cannot be gated.
    """
    _check_columns(columns, results, baseline)
    sides = _Sides.of(results, baseline)
    if not sides.both:
        raise RequestError(
            f"{sides.names} have no row in common: repeat the run with the baseline's models "
            "and attacks, or make a new baseline with --update"
        )
    _check_same_images(sides)
    if "robust_accuracy_worst" in columns:
        _check_same_evidence(sides)
    if not set(columns) <= set(ACCURACIES):
        _check_same_explanations(sides)
    if not set(MOVED).isdisjoint(columns):
        _check_same_goals(sides)
    rows: list[Moved] = []
    for column in columns:
        tested = alpha is not None and column in ACCURACIES
        ps = holm([_test(before, now, column, both_ways) for before, now in sides.both]) if tested else []
        for (before, now), p in zip_longest(sides.both, ps):
            rows.append(_moved(before, now, column, tolerances, p=p, alpha=alpha, both_ways=both_ways))
        rows += [_alone(row, column, "missing") for row in sides.missing]
        rows += [_alone(row, column, "extra") for row in sides.extra]
    rows += _distrusted(sides)
    rows.sort(key=lambda row: (not row.failed, -_distance(row)))
    marks = legend(trust for row in rows for trust in (row.trust_before, row.trust_after))
    why = mark_notes((_name(row), row) for row in (*(now for _, now in sides.both), *sides.extra)) if marks else []
    notes = [*marks, *why, *_notes(sides), *(f"{row.name}: {row.note}." for row in rows if row.column == TRUST)]
    return GateReport(tuple(rows), tuple(notes))


Row = dict[str, Any]
"""A row of results, by column; ``None`` in columns that a file of an older version lacks."""


@dataclass(frozen=True, kw_only=True)
class _Sides:
    """Rows of a run and of its baseline, side by side."""

    names: str
    both: list[tuple[Row, Row]]
    """Rows of both, the baseline's first."""
    missing: list[Row]
    """Rows of the baseline alone."""
    extra: list[Row]
    """Rows of the run alone."""

    @classmethod
    def of(cls, results: Results, baseline: Results) -> "_Sides":
        """Align rows that are of the same model and attack, in the order of the baseline."""
        before, now = _rows(baseline), _rows(results)
        tables = [pd.DataFrame({"key": keys, "row": range(len(keys))}) for keys in keys_of([baseline, results])]
        # Keys are numbered in the order of the baseline, and an outer merge sorts by them.
        pairs = tables[0].merge(tables[1], on="key", how="outer", suffixes=("_before", "_now"), indicator="side")
        there, here = pairs["row_before"], pairs["row_now"]
        known = {side: pairs["side"] == side for side in ("both", "left_only", "right_only")}
        both = zip(there[known["both"]].astype(int), here[known["both"]].astype(int), strict=True)
        return cls(
            names=f"{results.source} and {baseline.source}",
            both=[(before[old], now[new]) for old, new in both],
            missing=[before[old] for old in there[known["left_only"]].astype(int)],
            extra=[now[new] for new in here[known["right_only"]].astype(int)],
        )


def _rows(results: Results) -> list[Row]:
    survivors = [results.survivors.get(row, "") for row in range(len(results.records))]
    rows = results.records.assign(**{SURVIVORS: survivors}).to_dict("records")
    return [{str(column): None if value is pd.NA else value for column, value in row.items()} for row in rows]


def higher_is_better(column: str) -> bool:
    """The direction of a column."""
    distances = (name for name in MEASURES if isinstance(MEASURES[name], Distance))
    return not any(f"_{what}_" in column for what in (*HARMS, *distances))


def check_gated(columns: Sequence[str]) -> None:
    """Refuse columns that cannot be held against a baseline.

    Raises:
        RequestError: with those that can.
    """
    gated = [*ACCURACIES, *(column for column in COLUMNS if column.startswith("explanation_"))]
    for column in columns:
        if column not in gated:
            raise unknown("column to gate", column, gated)


def _check_columns(columns: Sequence[str], results: Results, baseline: Results) -> None:
    check_gated(columns)
    for column in columns:
        for one in (results, baseline):
            if one.records[column].isna().all():
                remedy = "with --goal explanation" if column in MOVED else "without --no-figures"
                raise RequestError(f"{one.source} has no values of {column}: repeat its run {remedy}")


def _check_same_images(sides: _Sides) -> None:
    for before, now in sides.both:
        for column in ("subset", "images"):
            if now[column] != before[column]:
                raise RequestError(
                    f"{sides.names} were measured on other images ({column} {now[column]} and {before[column]}, "
                    f"{_name(now)}): repeat the run on the baseline's images, or make a new baseline with --update"
                )


def _check_same_evidence(sides: _Sides) -> None:
    """Refuse to compare runs with different evidence: findings of additional checks are no regression."""
    for before, now in sides.both:
        here, there = _evidence(now), _evidence(before)
        if here != there:
            raise RequestError(
                f"{sides.names} were checked differently (evidence {here} and {there}, {_name(now)}): repeat the run "
                f"with --evidence {there}, make a new baseline with --update, or compare what the attacks alone left "
                "with --gate robust_accuracy"
            )


def _evidence(row: Row) -> str:
    """``off`` where an older version knew of none."""
    return str(row["evidence"] or "off")


def _check_same_explanations(sides: _Sides) -> None:
    for before, now in sides.both:
        here, there = now["explanation"], before["explanation"]
        if here is not None and there is not None and here != there:
            raise RequestError(
                f"{sides.names} were explained by other methods (explanation {here} and {there}, {_name(now)}): repeat "
                "the run with the baseline's --explanation"
            )


def _check_same_goals(sides: _Sides) -> None:
    for before, now in sides.both:
        here, there = now["attacked_maps"], before["attacked_maps"]
        if here != there:
            raise RequestError(
                f"{sides.names} had other explanations attacked ({here} and {there}, {_name(now)}): repeat the run "
                "with the baseline's --goal and --method"
            )


def _distrusted(sides: _Sides) -> list[Moved]:
    """Rows that were sound and are suspect."""
    return [
        Moved(
            name=_name(now),
            model=str(now["model"]),
            column=TRUST,
            status="regressed",
            note=f"sound before and suspect now: {now['reasons']}",
        )
        for before, now in sides.both
        if str(before["trust"]) == "sound" and str(now["trust"]) == "suspect"
    ]


def _test(before: Row, now: Row, column: str, both_ways: bool) -> float:
    """One-sided p of a loss; two-sided where an improvement closes the gate, too."""
    old, new = before[SURVIVORS], now[SURVIVORS]
    known = column == "robust_accuracy_worst" or (
        column == "robust_accuracy" and _same_as_worst(now) and _same_as_worst(before)
    )
    if known and old and len(old) == len(new):
        moves = [f"{a}{b}" for a, b in zip(old, new, strict=True)]
        lost, won = moves.count("10"), moves.count("01")
        worse, better = mcnemar_worse(lost, won), mcnemar_worse(won, lost)
    else:
        ours, theirs = ((int(row[ACCURACIES[column]]), int(row["images"])) for row in (now, before))
        worse, better = fisher_worse(*ours, *theirs), fisher_worse(*theirs, *ours)
    return min(1.0, 2 * min(worse, better)) if both_ways else worse


def _same_as_worst(row: Row) -> bool:
    """Whether the attack's own count is the worst case, so that the survivors are its survivors."""
    return bool(row["worst_correct"] == row["robust_correct"])


def _moved(
    before: Row,
    now: Row,
    column: str,
    tolerances: Sequence[Tolerance],
    *,
    p: float | None,
    alpha: float | None,
    both_ways: bool,
) -> Moved:
    model, name = str(now["model"]), _name(now)
    counted = ACCURACIES.get(column)
    images = int(now["images"]) if counted else None
    old, new = (float(row[counted or column]) for row in (before, now))
    gain = new - old if higher_is_better(column) else old - new
    allowed = _tolerance((model, name), tolerances, significant=p is not None).allowed(images)
    # Counts are whole; the share of a point that a tolerance allows must not depend on how it is rounded.
    lost, won = -gain > allowed + 1e-9, gain > allowed + 1e-9
    certain = alpha is None or p is None or p < alpha
    vanished = math.isnan(new) and not math.isnan(old)
    closed = vanished or (certain and (lost or (won and both_ways)))
    return Moved(
        name=name,
        model=model,
        column=column,
        status="regressed" if closed else "improved" if won else "held",
        before=old,
        after=new,
        trust_before=_trust(before, column),
        trust_after=_trust(now, column),
        change=new - old,
        images=images,
        p=p,
        note="" if images or not vanished else "no value",
    )


def _trust(row: Row, column: str) -> str:
    return "" if column == "clean_accuracy" else str(row["trust"])


def _tolerance(names: tuple[str, str], tolerances: Sequence[Tolerance], *, significant: bool) -> Tolerance:
    matching = [tolerance for tolerance in tolerances if any(fnmatch.fnmatchcase(n, tolerance.pattern) for n in names)]
    if matching:
        return matching[-1]
    return Tolerance("*", 0.0, "flips") if significant else Tolerance.parse(DEFAULT_TOLERANCE)


def _alone(row: Row, column: str, status: Literal["missing", "extra"]) -> Moved:
    counted = ACCURACIES.get(column)
    value = float(row[counted or column])
    return Moved(
        name=_name(row),
        model=str(row["model"]),
        column=column,
        status=status,
        before=value if status == "missing" else None,
        after=value if status == "extra" else None,
        trust_before=_trust(row, column) if status == "missing" else "",
        trust_after=_trust(row, column) if status == "extra" else "",
        images=int(row["images"]) if counted else None,
        note="not in this run" if status == "missing" else "not in the baseline",
    )


def _notes(sides: _Sides) -> list[str]:
    notes = []
    for column, what in {"weights_sha256": "weights", "version": "version of robustbench_bcos"}.items():
        other = {str(now["model"]) for before, now in sides.both if now[column] != before[column]}
        if other:
            notes.append(f"Another {what} than in the baseline: {', '.join(sorted(other))}.")
    return notes


def _distance(row: Moved) -> float:
    """How far a row moved, as a share; rows of one side are after those that moved."""
    if row.change is None:
        return -1.0
    if math.isnan(row.change):
        return math.inf if row.failed else 0.0
    return abs(row.change) / (row.images or 1)


def _name(row: Row) -> str:
    parts = [row["model"], row["attack"], row["norm"], row["eps"]]
    parts += [counted(row["steps"], "step")] if row["steps"] else []
    usual = {"loss": "", **USUAL}
    parts += [row[column] for column, value in usual.items() if row[column] and row[column] != value]
    parts += [counted(row["restarts"], "restart")] if row["restarts"] != 1 else []
    return " ".join(map(str, parts))
