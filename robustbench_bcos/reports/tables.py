"""Wide tables: models as rows, epsilons as columns, the steps of an attack side by side in a cell."""

from collections.abc import Callable

import pandas as pd

COLUMN_KEYS = ("attack", "norm", "eps", "loss", "restarts", "start", "select", "space", "criterion")
"""What can differ between columns; only what does is in their names."""

NAMED_ALWAYS = ("norm", "eps")

JOIN = " / "


def column_names(records: pd.DataFrame) -> pd.Series:
    """Name of the column each record belongs to: norm, eps, and whatever else differs within the run.

    All but the attack itself only differs where an attack has several: noise has no loss and always a random start.
    The loss only differs where a model has records with several: ``auto`` gives each family its own.
    """
    several = {key: _varies(records, key, within=["attack"]) for key in COLUMN_KEYS}
    several |= dict.fromkeys(NAMED_ALWAYS, True)
    several["attack"] = records["attack"].nunique() > 1
    several["loss"] = _varies(records, "loss", within=["model", "attack"])
    shown = [*NAMED_ALWAYS, *(key for key in COLUMN_KEYS if several[key] and key not in NAMED_ALWAYS)]
    return records.apply(lambda row: " ".join(_part(key, row[key]) for key in shown if row[key] != ""), axis=1)


def variants(records: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Rows that differ in model, epsilon and steps alone, each group named by its norm and whatever else differs."""
    named = column_names(records.assign(eps=""))
    return [(str(name).strip(), rows) for name, rows in records.groupby(named, sort=False)]


def strongest(records: pd.DataFrame) -> pd.DataFrame:
    """Of rows that differ in steps alone, those of the most steps."""
    columns = column_names(records)
    most = records.groupby([records["model"], columns])["steps"].transform("max")
    return records[records["steps"] == most]


def wide_table(records: pd.DataFrame, text: Callable[[pd.Series], str]) -> pd.DataFrame:
    """Models as rows, one column per threat, fewer steps before more within a cell.

    Args:
        records: rows of ``results.csv``.
        text: what is shown of a record.
    """
    shown = pd.DataFrame(
        {
            "model": records["model"],
            "column": column_names(records),
            "steps": records["steps"],
            "text": records.apply(text, axis=1),
        }
    )
    ordered = shown.sort_values("steps", kind="stable")
    joined = ordered.groupby(["model", "column"])["text"].agg(JOIN.join).unstack("column")
    return joined.reindex(index=records["model"].unique(), columns=shown["column"].unique()).fillna("")


def _varies(records: pd.DataFrame, key: str, *, within: list[str]) -> bool:
    return bool((records.groupby(within)[key].nunique() > 1).any())


def _part(key: str, value: object) -> str:
    return f"{value} restarts" if key == "restarts" else str(value)
