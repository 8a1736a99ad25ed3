"""Wide tables: models as rows, epsilons as columns, the steps of an attack side by side in a cell."""

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import pandas as pd

from robustbench_bcos.bench.records import KEY, USUAL
from robustbench_bcos.core.text import counted

NAMED_ALWAYS = ("norm", "eps", "attack")

COLUMN_KEYS = tuple(key for key in KEY if key not in (*NAMED_ALWAYS, "model", "dataset", "epsilon", "steps", "seed"))
"""What can differ between the columns of one attack; only what does, or is unusual, is in their names."""

CELL_KEYS = ["model", "attack", "norm", "epsilon", "steps"]
"""What rows agree in that would stand in one place of one cell, but for ``COLUMN_KEYS``."""

TOLD_APART = ("criterion", "options")
"""Of these, what headings say beside the values of a key: the criterion has a note of its own."""

JOIN = " / "


def column_names(records: pd.DataFrame) -> pd.Series:
    """Name of the column each record belongs to: norm, eps, attack, what is unusual, and whatever else differs.

    A key differs where rows of one model, attack, threat and number of steps have several values of it: ``auto`` gives
    each family its own loss, and each epsilon has a step size of its own.
    """
    several = _differing(records)

    def named(row: Mapping[Hashable, Any]) -> str:
        shown = (key for key in COLUMN_KEYS if key in several or row[key] != USUAL.get(key, row[key]))
        parts = [*(row[key] for key in NAMED_ALWAYS), *(_part(key, row[key]) for key in shown)]
        return " ".join(str(part) for part in parts if part != "")

    # By records and not by apply, which makes a series of every row.
    rows = records[[*NAMED_ALWAYS, *COLUMN_KEYS]].to_dict("records")
    return pd.Series([named(row) for row in rows], index=records.index, dtype=object)


def attacks_of(records: pd.DataFrame, *, steps: bool = False) -> str:
    """The attacks of the records, for a heading.

    Args:
        records: rows of ``results.csv``.
        steps: whether to say which numbers of steps stand side by side in a cell.
    """
    told = []
    for attack, rows in records.groupby((records["attack"] + " " + records["options"]).str.strip(), sort=False):
        counts = JOIN.join(str(count) for count in sorted(rows["steps"].unique()) if count > 0)
        said = [f"{counts} {'step' if counts == '1' else 'steps'}"] if steps and counts else []
        said += [_values(key, rows[key]) for key in _differing(rows) if key not in TOLD_APART]
        told.append(f"{attack} ({', '.join(said)})" if said else str(attack))
    return " and ".join(told)


def attack_texts(records: pd.DataFrame) -> pd.Series:
    """Attack, threat, whatever else is in the name of its column, and steps of each record: for a title."""
    told = []
    for name, row in zip(column_names(records), records.to_dict("records"), strict=True):
        before, threat = (
            " ".join(str(row[key]) for key in keys if row[key] != "")
            for keys in (NAMED_ALWAYS, ("attack", "norm", "eps"))
        )
        told.append(
            f"{threat}{name.removeprefix(before)}" + (f", {counted(row['steps'], 'step')}" if row["steps"] else "")
        )
    return pd.Series(told, index=records.index)


def variants(records: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Rows that differ in model, epsilon and steps alone, each group named by its norm and whatever else differs."""
    named = column_names(records.assign(eps=""))
    return [(str(name).strip(), rows) for name, rows in records.groupby(named, sort=False)]


def strongest(records: pd.DataFrame) -> pd.DataFrame:
    """Of rows that differ in steps alone, those of the most steps."""
    columns = column_names(records)
    most = records.groupby([records["model"], columns])["steps"].transform("max")
    return records[records["steps"] == most]


def wide_table(records: pd.DataFrame, text: Callable[[Mapping[Hashable, Any]], str]) -> pd.DataFrame:
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
            "text": [text(row) for row in records.to_dict("records")],
        }
    )
    ordered = shown.sort_values("steps", kind="stable")
    joined = ordered.groupby(["model", "column"])["text"].agg(JOIN.join).unstack("column")
    return joined.reindex(index=records["model"].unique(), columns=shown["column"].unique()).fillna("")


def _differing(records: pd.DataFrame) -> list[str]:
    """Keys of which rows that would stand in one place have several values."""
    several = (records.groupby(CELL_KEYS)[list(COLUMN_KEYS)].nunique() > 1).any()
    return [key for key in COLUMN_KEYS if several[key]]


def _values(key: str, column: pd.Series) -> str:
    """All values of a key as they stand in a heading: ``ce / margin``, ``1 / 2 restarts``."""
    *others, last = (value for value in column.unique() if value != "" and not pd.isna(value))
    return JOIN.join([*(value if isinstance(value, str) else f"{value:g}" for value in others), _part(key, last)])


def _part(key: str, value: Any) -> str:  # noqa: ANN401 (of any column)
    """A value as it stands in a name: numbers say what they count."""
    if isinstance(value, str):
        return value
    if pd.isna(value):
        return ""
    counted = key.replace("_", " ")
    if value == 1:
        counted = f"{counted.removesuffix('ies')}y" if counted.endswith("ies") else counted.removesuffix("s")
    return f"{value:g} {counted}"
