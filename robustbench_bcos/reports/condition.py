"""Conditions over the columns of ``results.csv``: read here and never handed to anything that could call a function."""

import ast
import operator
from collections.abc import Callable
from typing import Any

import pandas as pd

from robustbench_bcos.bench.records import COLUMNS, TEXTS
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.registry import unknown

EXAMPLE = "write norm == 'l2' and epsilon > 0.1, say"

MAX_LENGTH = 1_000
"""Characters of a condition: Python's parser needs memory and stack in proportion."""

Comparator = Callable[[Any, Any], Any]

COMPARISONS: dict[type[ast.cmpop], Comparator] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}

MIRRORED: dict[type[ast.cmpop], type[ast.cmpop]] = {ast.Lt: ast.Gt, ast.LtE: ast.GtE, ast.Gt: ast.Lt, ast.GtE: ast.LtE}
"""What ``0.1 < epsilon`` means with the column in front; other comparisons are their own mirror."""


def fulfilled(rows: pd.DataFrame, condition: str) -> pd.Series:
    """Which rows fulfil a condition such as ``norm == 'l2' and epsilon in [0.25, 8/255]``.

    A condition compares columns with texts and numbers by ``==``, ``!=``, ``<``, ``<=``, ``>``, ``>=``, ``in`` and
    ``not in``, and combines by ``and``, ``or`` and ``not``. ``'bcos' in model`` holds where the model's name contains
    that text. A value that is missing fulfils ``!=`` and ``not in`` alone.

    Args:
        rows: with the columns of ``results.csv``.
        condition: what they must fulfil.

    Returns:
        A boolean for each row.

    Raises:
        RequestError: it is not such a condition, or names another column.
    """
    try:
        if len(condition) > MAX_LENGTH:
            raise _Unreadable(f"it is longer than {MAX_LENGTH} characters")
        tree = ast.parse(condition.strip(), mode="eval")
        return _Reader(rows).condition(tree.body)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        raise RequestError(f"--filter {condition!r} cannot be read ({reason}): {EXAMPLE}") from None


def check_condition(condition: str) -> None:
    """Refuse, before there are rows, what none can fulfil because it is no condition over their columns.

    Raises:
        RequestError: as :func:`fulfilled` says it.
    """
    fulfilled(pd.DataFrame(columns=list(COLUMNS)), condition)


class _Unreadable(ValueError):
    """What is wrong with a condition."""


class _Reader:
    """The grammar: a method for each of its parts. Whatever has no method is refused."""

    def __init__(self, rows: pd.DataFrame) -> None:
        self.rows = rows

    def condition(self, part: ast.expr) -> pd.Series:
        match part:
            case ast.BoolOp(op=ast.And(), values=parts):
                return pd.concat([self.condition(one) for one in parts], axis=1).all(axis=1)
            case ast.BoolOp(values=parts):
                return pd.concat([self.condition(one) for one in parts], axis=1).any(axis=1)
            case ast.UnaryOp(op=ast.Not(), operand=negated):
                return ~self.condition(negated)
            case ast.Compare(left=left, ops=operations, comparators=rights):
                sides = zip([left, *rights], operations, rights, strict=False)
                return pd.concat([self.comparison(*side) for side in sides], axis=1).all(axis=1)
        raise _Unreadable(f"{ast.unparse(part)} is not a comparison of a column with a text or a number")

    def comparison(self, left: ast.expr, operation: ast.cmpop, right: ast.expr) -> pd.Series:
        if isinstance(operation, ast.In | ast.NotIn):
            found = self.membership(left, right)
            return ~found if isinstance(operation, ast.NotIn) else found
        kind = type(operation)
        if kind not in COMPARISONS:
            raise _Unreadable("columns are compared by ==, !=, <, <=, >, >=, in and not in")
        if not isinstance(left, ast.Name):
            left, right, kind = right, left, MIRRORED.get(kind, kind)
        column, value = self.column(left), literal(right)
        return self.against(column, value, COMPARISONS[kind])

    def membership(self, left: ast.expr, right: ast.expr) -> pd.Series:
        if isinstance(right, ast.List | ast.Tuple | ast.Set):
            column = self.column(left)
            each = [self.against(column, literal(one), operator.eq) for one in right.elts]
            nothing = pd.Series(data=False, index=self.rows.index)
            return pd.concat([nothing, *each], axis=1).any(axis=1)
        column, text = self.column(right), literal(left)
        if column not in TEXTS or not isinstance(text, str):
            raise _Unreadable(f"in looks for a text in a column of texts, and {column} or {text!r} is none")
        found: pd.Series = self.rows[column].astype(str).str.contains(text, regex=False) & self.rows[column].notna()
        return found

    def column(self, part: ast.expr) -> str:
        if not isinstance(part, ast.Name):
            raise _Unreadable(f"{ast.unparse(part)} stands where a column must")
        if part.id not in self.rows.columns:
            raise _Unreadable(str(unknown("column", part.id, map(str, self.rows.columns))))
        return part.id

    def against(self, column: str, value: str | float, compare: Comparator) -> pd.Series:
        if (column in TEXTS) is not isinstance(value, str):
            kind = "texts" if column in TEXTS else "numbers"
            raise _Unreadable(f"{column} holds {kind}, and {value!r} is none")
        values = self.rows[column]
        values = values.astype(str).where(values.notna()) if column in TEXTS else pd.to_numeric(values).astype(float)
        there = values.notna()
        # Against what is missing, only "is not" holds.
        found: pd.Series = compare(values[there], value)
        return found.reindex(values.index, fill_value=compare is operator.ne).astype(bool)


def literal(part: ast.expr) -> str | float:
    """A text or a number that is written out; a fraction such as 8/255 is one."""
    match part:
        case ast.Constant(value=str() as text):
            return text
        case ast.Constant(value=bool()):
            pass
        case ast.Constant(value=int() | float() as number):
            return float(number)
        case ast.UnaryOp(op=ast.USub(), operand=negated) if not isinstance(value := literal(negated), str):
            return -value
        case ast.BinOp(op=ast.Div(), left=ast.Constant() as above, right=ast.Constant() as below):
            numerator, denominator = literal(above), literal(below)
            if not isinstance(numerator, str) and not isinstance(denominator, str) and denominator != 0:
                return numerator / denominator
    raise _Unreadable(f"{ast.unparse(part)} stands where a text or a number must")
