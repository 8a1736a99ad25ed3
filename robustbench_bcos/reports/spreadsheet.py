"""Tables as CSV whose cells are text and numbers to whatever opens them: a terminal, or a spreadsheet program."""

import re

import pandas as pd
from pandas.api.types import is_numeric_dtype

from robustbench_bcos.core.text import printable

FORMULA = re.compile(r"'*[=+\-@\t\r]")
"""How a cell begins that spreadsheet programs compute (OWASP, CSV Injection), or that has been marked already."""

MARK = "'"
"""Put in front of such a cell, which these programs then show as text."""


def csv_of(table: pd.DataFrame, *, index_label: str | None = None) -> str:
    """A table as CSV: control characters are escaped, and a text that would be a formula has an apostrophe in front.

    Args:
        table: any.
        index_label: head of the index; without one, the index is left out.
    """
    inert = table.apply(lambda column: column if is_numeric_dtype(column) else column.map(_inert))
    inert.columns = pd.Index([_inert(name) for name in table.columns])
    if index_label is not None:
        inert.index = pd.Index([_inert(name) for name in table.index])
    text: str = inert.to_csv(index=index_label is not None, index_label=index_label)
    return text


def as_written(cell: str) -> str:
    """The text that :func:`csv_of` has put an apostrophe in front of; any other as it is."""
    return cell[1:] if cell.startswith(MARK) and FORMULA.match(cell) else cell


def _inert(cell: object) -> object:
    if not isinstance(cell, str):
        return cell
    text = printable(cell)
    return MARK + text if FORMULA.match(text) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
