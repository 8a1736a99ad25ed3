"""The reference pages of columns, written from the classes that declare them."""

import ast
import inspect
import re
from collections.abc import Iterable
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

from robustbench_bcos.bench.records import ImageRecord, Record
from robustbench_bcos.bench.rows import SPREAD, tables
from robustbench_bcos.bench.similarity import COMPARISONS, EXPLAINED_CLASSES
from robustbench_bcos.core.disk import write_text
from robustbench_bcos.explanations.similarity import MEASURES


def update_page(page: Path) -> None:
    """Write the tables of a page such as ``docs/results.md`` anew.

    Raises:
        RequestError: the page cannot be written.
    """
    write_text(page, with_tables(page.read_text(encoding="utf-8")))


def with_tables(text: str) -> str:
    """The text of a page with what stands between ``<!-- generated: NAME -->`` and ``<!-- end -->`` written anew."""
    generated = {
        "columns": _columns_of_results(),
        "images": _table((f"`{column}`", text) for column, text in descriptions(ImageRecord).items()),
        "tables": _tables_of_the_store(),
    }
    return re.sub(
        r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)",
        lambda found: f"{found[1]}{generated[found[2]]}\n{found[3]}",
        text,
        flags=re.DOTALL,
    )


def descriptions(declared: type) -> dict[str, str]:
    """The docstring below each field of a class, on one line."""
    (body,) = (node.body for node in ast.parse(inspect.getsource(declared)).body if isinstance(node, ast.ClassDef))
    found: dict[str, str] = {}
    for field, following in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            text = following.value if isinstance(following, ast.Expr) else None
            found[field.target.id] = " ".join(str(text.value).split()) if isinstance(text, ast.Constant) else ""
    return found


def _columns_of_results() -> str:
    name = "`explanation_MEASURE_CLASS_COMPARISON`"
    meaning = (
        f"Mean over the explained images, to 4 significant digits; empty where no image has a value. MEASURE is "
        f"{_listed(MEASURES)}; CLASS is {_listed(EXPLAINED_CLASSES)}; COMPARISON is {_listed(COMPARISONS)}."
    )
    return _table([*((f"`{column}`", text) for column, text in descriptions(Record).items()), (name, meaning)])


def _tables_of_the_store() -> str:
    sections = []
    for row in tables():
        spread = {field.name: field.metadata[SPREAD] for field in fields(row) if SPREAD in field.metadata}
        columns = descriptions(row).items()
        lines = [(_listed(spread.get(column, [column])), text) for column, text in columns]
        key = f" Key: {_listed(row.key)}." if row.key else ""
        sections.append(f"### `{row.table}`\n\n{inspect.getdoc(row)}{key}\n\n{_table(lines)}")
    return "\n\n".join(sections)


def _table(rows: Iterable[tuple[str, str]]) -> str:
    return "\n".join(["| column | meaning |", "|---|---|", *(f"| {name} | {_markdown(text)} |" for name, text in rows)])


def _markdown(text: str) -> str:
    return text.replace("``", "`")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
