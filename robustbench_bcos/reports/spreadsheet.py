"""Tables as CSV whose cells are text and numbers to whatever opens them: a terminal, or a spreadsheet program."""

import csv
import os
import re
from collections.abc import Iterable
from itertools import chain
from typing import cast

import pandas as pd
from pandas.api.types import infer_dtype, is_numeric_dtype

from robustbench_bcos.core.text import printable

FORMULA = re.compile(r"'*[=+\-@\t\r]")
"""How a cell begins that spreadsheet programs compute (OWASP, CSV Injection), or that has been marked already."""

EMPTY = '""'
"""The only cell of a row, where it is empty: a line without anything would be skipped."""

MARK = "'"
"""Put in front of such a cell, which these programs then show as text."""


def csv_of(table: pd.DataFrame, *, index_label: str | None = None) -> str:
    """A table as CSV: control characters are escaped, and a text that would be a formula has an apostrophe in front.

    Args:
        table: any.
        index_label: head of the index; without one, the index is left out.
    """
    # Not to_csv, which takes six times as long, nor csv.writer for every row, which takes twice: texts are few.
    columns = [_cells(column) for _, column in table.items()]
    heads = _quoted(map(str, table.columns))
    if index_label is not None:
        columns.insert(0, _cells(table.index.to_series()))
        heads[:0] = _quoted([index_label])
    rows = zip(*columns, strict=True) if len(columns) > 1 else ([cell or EMPTY] for cell in columns[0])
    return "".join(f"{','.join(cells)}{os.linesep}" for cells in chain([heads], rows))


def _cells(column: pd.Series) -> list[str]:
    """Each as it is written between two commas; nothing where it is missing."""
    missing = column.isna().to_numpy()
    if is_numeric_dtype(column):
        cells = [*map(str, column.tolist())]
        for place in missing.nonzero()[0]:
            cells[place] = ""
        return cells
    given = column.astype(object).where(~missing, "")
    if infer_dtype(given, skipna=False) == "string":
        numbers, texts = pd.factorize(given)
        return [*map(_quoted(texts).__getitem__, numbers)]
    return [_quoted([cell])[0] if isinstance(cell, str) else str(cell) for cell in given]


def _quoted(texts: Iterable[str]) -> list[str]:
    """With an apostrophe where a spreadsheet program would compute, and in quotation marks where CSV asks for them."""
    # Which also puts line breaks in quotation marks if that is how its own lines end.
    writer = csv.writer(_Echo(), lineterminator="\n")
    # With a second cell, because a single empty one would be quoted; comma and line break are taken away again.
    return [cast(str, writer.writerow((_inert(text), "")))[:-2] for text in texts]


class _Echo:
    """A file that gives back what is written to it."""

    def write(self, line: str) -> str:
        return line


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
