"""Tables as CSV whose cells are text and numbers to whatever opens them: a terminal, or a spreadsheet program."""

import csv
import os
import re
from io import StringIO

import pandas as pd
from pandas.api.types import infer_dtype

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
    # Not to_csv, which takes three times as long.
    columns = [_cells(column) for _, column in table.items()]
    heads = [_inert(str(name)) for name in table.columns]
    if index_label is not None:
        columns.insert(0, _cells(table.index.to_series()))
        heads.insert(0, index_label)
    text = StringIO()
    writer = csv.writer(text, lineterminator=os.linesep)
    writer.writerow(heads)
    writer.writerows(zip(*columns, strict=True))
    return text.getvalue()


def _cells(column: pd.Series) -> list[object]:
    if infer_dtype(column, skipna=False) == "string":
        numbers, texts = pd.factorize(column)
        return [*map([_inert(text) for text in texts].__getitem__, numbers)]
    cells: list[object] = column.astype(object).where(column.notna(), "").tolist()
    return [_inert(cell) if isinstance(cell, str) else cell for cell in cells]


def as_written(cell: str) -> str:
    """The text that :func:`csv_of` has put an apostrophe in front of; any other as it is."""
    return cell[1:] if cell.startswith(MARK) and FORMULA.match(cell) else cell


def _inert(cell: str) -> str:
    text = printable(cell)
    return MARK + text if FORMULA.match(text) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
