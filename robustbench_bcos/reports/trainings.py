"""Recipes that were trained several times: means, their spread over trainings, and tests of differences."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from robustbench_bcos.bench.evidence.trust import least_trusted
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.registry import unknown
from robustbench_bcos.core.statistics import summarise, welch, welch_interval
from robustbench_bcos.core.text import counted
from robustbench_bcos.core.trainings import REPEATED
from robustbench_bcos.reports.comparison import (
    INCOMPARABLE,
    NAMED,
    Comparison,
    contenders,
    corrected,
    differences,
    known,
    row_notes,
)
from robustbench_bcos.reports.marks import legend
from robustbench_bcos.reports.results import Results

CLEAN = "clean_accuracy"
ROBUST = "robust_accuracy_worst"
SIMILARITY = "explanation_cosine_true_attack"
COUNTED = {CLEAN: "clean_correct", ROBUST: "worst_correct", "robust_accuracy": "robust_correct"}
"""Measures that are shares of images, and the column of their counts."""

MEASURES = (CLEAN, ROBUST, SIMILARITY)
"""What is compared where nothing else is asked for."""

UNATTACKED = "no attack"
"""Where other measures have a threat."""

METHOD = "explanation"
"""Column of the method: similarities of maps that different methods made say nothing about each other."""


def compare_trainings(
    results: Sequence[Results],
    *,
    reference: str | None = None,
    where: str | None = None,
    measures: Sequence[str] = (),
) -> Comparison:
    """Compare recipes over their trainings: mean, deviation, t interval; Welch's interval and test of the difference.

    Two recipes' trainings are not paired (one seed gives other weights to other networks) and need not spread alike,
    which Welch's test allows for; tests of ranks cannot reach p = 0.05 with three against three. P values are
    corrected by Holm over all rows of the table; intervals are not.

    Args:
        results: runs and CSVs.
        reference: the recipe differences are to; by default the first.
        where: an expression over the columns of ``results.csv`` that rows must fulfil, as pandas reads it.
        measures: columns of ``results.csv``; by default clean and worst-case robust accuracy, and the similarity of
            explanations under attack where there is one.

    Raises:
        RequestError: no model was trained more than once, or a measure or the reference is unknown.
    """
    rows = trainings(results, where)
    if rows.groupby(["threat", "recipe"]).size().max() < 2:
        raise RequestError(
            "no model was trained more than once (names end in -seed0, -seed1, ...): train a recipe with --seeds 0..4"
        )
    first = known(reference, list(rows["recipe"].unique()), "recipe")
    asked = _asked(rows, measures)
    table = pd.DataFrame([line for measure in asked for line in _lines(measured(rows, measure), measure, first)])
    table["p"] = corrected(table["p"])
    method = () if set(asked) <= set(COUNTED) else (METHOD,)
    # Recipes, not each of their trainings, are named in what differs.
    named = rows.assign(model=rows["recipe"], contender=rows["recipe"])
    notes = [*_reading(table, first), *row_notes(named, "model"), *differences(named, (*NAMED, *method))]
    return Comparison(table, notes, legend(table["trust"]))


def trainings(results: Sequence[Results], where: str | None = None) -> pd.DataFrame:
    """All rows, each with its ``threat``, its ``recipe`` and its worst-case robust ``accuracy``.

    What tells rows of one model apart is part of a recipe's name: two losses are not two trainings.
    """
    rows = contenders(results, where)
    recipes = [
        REPEATED.sub("", model) + contender.removeprefix(model)
        for model, contender in zip(rows["model"], rows["contender"], strict=True)
    ]
    return rows.assign(recipe=recipes, accuracy=rows["worst_correct"] / rows["images"])


def measured(rows: pd.DataFrame, measure: str) -> pd.DataFrame:
    """The rows that have a ``value`` of a measure; without an attack, one for each training.

    Args:
        rows: of :func:`trainings`.
        measure: a column of ``results.csv``.
    """
    values = rows[COUNTED[measure]] / rows["images"] if measure in COUNTED else pd.to_numeric(rows[measure])
    found = rows.assign(value=values.astype(float))
    found = found[found["value"].notna()]
    if measure == CLEAN:
        return found.drop_duplicates(["contender", "source", "subset"]).assign(threat=UNATTACKED)
    return found


def _asked(rows: pd.DataFrame, measures: Sequence[str]) -> list[str]:
    there = [column for column in rows if str(column).startswith("explanation_") and rows[column].notna().any()]
    choice = [*COUNTED, *map(str, there)]
    for measure in measures:
        if measure not in choice:
            raise unknown("measure", measure, choice)
    return list(dict.fromkeys(measures)) or [measure for measure in MEASURES if measure in choice]


def _lines(rows: pd.DataFrame, measure: str, first: str) -> list[dict[str, Any]]:
    lines = []
    kept = [*INCOMPARABLE, *(() if measure in COUNTED else (METHOD,))]
    order = {threat: place for place, threat in enumerate(rows["threat"].unique())}
    groups = sorted(rows.groupby(["threat", "recipe"], sort=False), key=lambda group: order[group[0][0]])
    for (threat, recipe), found in groups:
        reference = rows[(rows["threat"] == threat) & (rows["recipe"] == first)]
        apart = (pd.concat([found, reference])[kept].nunique() > 1).any()
        tested = recipe != first and len(reference) > 0 and not apart
        summary = summarise(found["value"].tolist())
        lines.append(
            {
                "measure": measure,
                "threat": threat,
                "recipe": recipe,
                "trainings": summary.count,
                "mean": summary.mean,
                "trust": "" if measure == CLEAN else least_trusted(found["trust"]),
                "deviation": summary.deviation,
                "low": summary.interval.low,
                "high": summary.interval.high,
                **(_difference(found, reference, measure) if tested else _NO_DIFFERENCE),
            }
        )
    return lines


_NO_DIFFERENCE: Mapping[str, Any] = {
    **dict.fromkeys(("difference", "difference_low", "difference_high", "p")),
    "difference_trust": "",
}


def _difference(found: pd.DataFrame, reference: pd.DataFrame, measure: str) -> dict[str, Any]:
    values, others = found["value"].tolist(), reference["value"].tolist()
    interval = welch_interval(values, others)
    trusts = [*found["trust"], *reference["trust"]]
    return {
        "difference": math.fsum(values) / len(values) - math.fsum(others) / len(others),
        "difference_low": interval.low,
        "difference_high": interval.high,
        "p": welch(values, others),
        "difference_trust": "" if measure == CLEAN else least_trusted(trusts),
    }


def _reading(table: pd.DataFrame, first: str) -> list[str]:
    few, many = table["trainings"].min(), table["trainings"].max()
    counts = f"{few}" if few == many else f"{few} to {many}"
    return [
        f"Differences are to {first}; their intervals are Welch's, p by Welch's t-test over trainings, corrected by "
        f"Holm over {counted(int(table['p'].notna().sum()), 'row')}.",
        f"Means are over {counts} trainings: where the interval of a difference holds 0, neither a difference nor its "
        "absence was shown.",
    ]
