"""A comparison as text for papers, pages and programs."""

import re
from collections.abc import Callable

import pandas as pd

from robustbench_bcos.core.registry import Registry
from robustbench_bcos.reports.comparison import Comparison

FRACTIONS = ("accuracy", "ci_low", "ci_high", "difference", "low", "high", "mean", "deviation")
"""Columns that are shown in percent, or in points."""

COUNTS = ("correct", "images")

HEADINGS = {
    "accuracy": "accuracy %",
    "mean": "mean %",
    "deviation": "deviation, points",
    "difference": "difference, points",
}
"""Of columns that are shown in other units than they are kept in."""

FORMATS: Registry[Callable[[Comparison], str]] = Registry("format")


@FORMATS.registered("csv")
def as_csv(comparison: Comparison) -> str:
    """Fractions as floats, without notes."""
    return comparison.table.to_csv(index=False)


@FORMATS.registered("markdown")
def as_markdown(comparison: Comparison) -> str:
    """A pipe table over its notes."""
    shown = readable(comparison.table).map(_plain)
    notes = [f"- {_plain(note)}" for note in comparison.notes]
    return "\n".join([shown.to_markdown(index=False, disable_numparse=True), "", *notes]) + "\n"


@FORMATS.registered("latex")
def as_latex(comparison: Comparison) -> str:
    """A tabular with booktabs' rules; notes are comments above it."""
    styled = readable(comparison.table).style.hide(axis="index").format(escape="latex")
    styled = styled.format_index(escape="latex", axis="columns")
    comments = [f"% {' '.join(note.splitlines())}" for note in comparison.notes]
    return "\n".join([*comments, styled.to_latex(hrules=True)])


@FORMATS.registered("html")
def as_html(comparison: Comparison) -> str:
    """A table with escaped content, and its notes as a list."""
    table = readable(comparison.table).to_html(index=False, escape=True, border=0)
    notes = pd.Series(comparison.notes, dtype=str)
    listed = "".join(f"<li>{note}</li>" for note in notes.str.replace("&", "&amp;").str.replace("<", "&lt;"))
    return f"{table}\n<ul>{listed}</ul>\n"


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """The table as text: percent with their intervals, points, p values; what could not be measured is empty."""
    shown = pd.DataFrame(index=table.index)
    for column in table:
        if column in COUNTS or column in ("ci_low", "ci_high", "low", "high"):
            continue
        shown[HEADINGS.get(str(column), str(column))] = [_text(str(column), value) for value in table[column]]
        if column in ("accuracy", "mean"):
            bounds = ("ci_low", "ci_high") if column == "accuracy" else ("low", "high")
            shown["95 %"] = [_interval(low, high, "") for low, high in zip(*(table[b] for b in bounds), strict=True)]
        if column == "difference" and "accuracy" in table:
            shown["95 % of it"] = [
                _interval(low, high, "+") for low, high in zip(table["low"], table["high"], strict=True)
            ]
    return shown


def _text(column: str, value: object) -> str:
    if value is None or pd.isna(value):  # type: ignore[call-overload]
        return ""
    if column in FRACTIONS:
        return f"{100 * float(str(value)):{'+' if column == 'difference' else ''}.1f}"
    return f"{value:.2g}" if column == "p" else str(value)


def _interval(low: float | None, high: float | None, sign: str) -> str:
    if low is None or high is None or pd.isna(low) or pd.isna(high):
        return ""
    return f"{100 * low:{sign}.1f} to {100 * high:{sign}.1f}"


def _plain(text: str) -> str:
    """Markdown that shows the text: on one line, in one cell, without tags."""
    escaped = re.sub(r"[\\`*|]", r"\\\g<0>", " ".join(text.splitlines()))
    return escaped.replace("&", "&amp;").replace("<", "&lt;")
