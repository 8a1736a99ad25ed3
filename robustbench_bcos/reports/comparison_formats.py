"""A comparison as text for papers, pages and programs."""

from collections.abc import Callable, Sequence

import pandas as pd

from robustbench_bcos.core.registry import Registry
from robustbench_bcos.core.text import in_markdown, printable
from robustbench_bcos.reports.comparison import Comparison
from robustbench_bcos.reports.marks import marked
from robustbench_bcos.reports.spreadsheet import csv_of

FRACTIONS = ("accuracy", "ci_low", "ci_high", "difference", "low", "high", "mean", "deviation")
"""Columns that are shown in percent, or in points."""

COUNTS = ("correct", "images")

TRUSTS = {"trust": ("accuracy", "mean", "deviation"), "difference_trust": ("difference",)}
"""Columns that are shown as marks, and of which numbers."""

BOUNDS = ("ci_low", "ci_high", "low", "high", "difference_low", "difference_high")
"""Shown as intervals, behind what they belong to."""

PLAIN = "explanation_"
"""How measures begin that are not shares of images."""

UNITS = {"mean": " %", "deviation": " points", "difference": " points"}
"""In the cells of a table that has several measures."""

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
    return csv_of(comparison.table)


@FORMATS.registered("markdown")
def as_markdown(comparison: Comparison) -> str:
    """A pipe table over its legend and notes."""
    shown = readable(comparison.table).map(in_markdown).rename(columns=in_markdown)
    notes = [f"- {in_markdown(note)}" for note in _notes(comparison)]
    return "\n".join([shown.to_markdown(index=False, disable_numparse=True), "", *notes]) + "\n"


@FORMATS.registered("latex")
def as_latex(comparison: Comparison) -> str:
    """A tabular with booktabs' rules, whose last rows are its legend; notes are comments above it."""
    shown = readable(comparison.table)
    styled = (
        shown.style.hide(axis="index")
        .format(_in_latex, escape="latex")
        .format_index(_in_latex, escape="latex", axis="columns")
    )
    comments = [f"% {' '.join(note.splitlines())}" for note in _notes(comparison, legend=False)]
    told = [rf"\multicolumn{{{shown.shape[1]}}}{{l}}{{\footnotesize {line}}} \\" for line in comparison.legend]
    end = r"\end{tabular}"
    body, _, rest = styled.to_latex(hrules=True).rpartition(end)
    return "\n".join([*comments, body + "".join(f"{line}\n" for line in told) + end + rest])


@FORMATS.registered("html")
def as_html(comparison: Comparison) -> str:
    """A table with escaped content, and its notes as a list."""
    table = readable(comparison.table).to_html(index=False, escape=True, border=0)
    notes = pd.Series(_notes(comparison), dtype=str)
    listed = "".join(f"<li>{note}</li>" for note in notes.str.replace("&", "&amp;").str.replace("<", "&lt;"))
    return f"{table}\n<ul>{listed}</ul>\n"


def _in_latex(cell: object) -> str:
    r"""A cell, already escaped: what begins with ``[`` or ``*`` would be an argument of the ``\\`` before it."""
    text = str(cell)
    return f"{{}}{text}" if text.startswith(("[", "*")) else text


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """The table as text: percent with their intervals, points, p values; what could not be measured is empty."""
    shown = pd.DataFrame(index=table.index)
    # Similarities of explanations are neither percent nor points, and may stand among accuracies that are.
    own = "measure" in table
    plain = [own and name.startswith(PLAIN) for name in (table["measure"] if own else [""] * len(table))]
    for column in table:
        if column in COUNTS or column in BOUNDS or column in TRUSTS:
            continue
        heading = str(column) if own else HEADINGS.get(str(column), str(column))
        texts = [_text(str(column), value, number) for value, number in zip(table[column], plain, strict=True)]
        units = UNITS.get(str(column), "") if own else ""
        shown[heading] = [
            marked(f"{text}{'' if number or not text else units}", trust)
            for text, number, trust in zip(texts, plain, _trusts(table, str(column)), strict=True)
        ]
        if column in ("accuracy", "mean"):
            shown["95 %"] = _intervals(
                table, ("ci_low", "ci_high") if column == "accuracy" else ("low", "high"), "", plain
            )
        if column == "difference":
            bounds = ("difference_low", "difference_high") if own else ("low", "high")
            shown["95 % of it"] = _intervals(table, bounds, "+", plain)
    return shown


def _notes(comparison: Comparison, *, legend: bool = True) -> list[str]:
    return [printable(note) for note in (*(comparison.legend if legend else ()), *comparison.notes)]


def _trusts(table: pd.DataFrame, column: str) -> list[str]:
    """Of the rows that each number of a column follows from; empty where none has to be told."""
    told = [trust for trust, numbers in TRUSTS.items() if column in numbers and trust in table]
    return table[told[0]].tolist() if told else [""] * len(table)


def _text(column: str, value: object, plain: bool) -> str:
    if value is None or pd.isna(value):  # type: ignore[call-overload]
        return ""
    if column in FRACTIONS:
        return _number(float(str(value)), "+" if column == "difference" else "", plain)
    return f"{value:.2g}" if column == "p" else printable(str(value))


def _number(value: float, sign: str, plain: bool) -> str:
    return f"{value:{sign}.3f}" if plain else f"{100 * value:{sign}.1f}"


def _intervals(table: pd.DataFrame, bounds: tuple[str, str], sign: str, plain: Sequence[bool]) -> list[str]:
    lows, highs = (table[bound] for bound in bounds)
    return [_interval(low, high, sign, number) for low, high, number in zip(lows, highs, plain, strict=True)]


def _interval(low: float | None, high: float | None, sign: str, plain: bool) -> str:
    if low is None or high is None or pd.isna(low) or pd.isna(high):
        return ""
    return f"{_number(low, sign, plain)} to {_number(high, sign, plain)}"
