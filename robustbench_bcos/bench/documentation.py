"""The reference pages of columns, written from the classes that declare them."""

import ast
import inspect
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

from robustbench_bcos.bench.fooled import FOOLED_BY, FooledRecord
from robustbench_bcos.bench.records import ImageRecord, Record
from robustbench_bcos.bench.rows import COMPARISONS, EXPLAINED_CLASSES, SPREAD, tables
from robustbench_bcos.bench.smoothed import SmoothedRecord
from robustbench_bcos.core.disk import write_text
from robustbench_bcos.explanations.similarity import MEASURES


def update_page(page: Path, generated: Mapping[str, str] | None = None) -> None:
    """Write the tables of a page such as ``docs/results.md`` anew.

    Args:
        page: what is written.
        generated: tables by name; by default those of a run.

    Raises:
        RequestError: the page cannot be written.
    """
    write_text(page, with_tables(page.read_text(encoding="utf-8"), generated))


def with_tables(text: str, generated: Mapping[str, str] | None = None) -> str:
    """The text of a page with what stands between ``<!-- generated: NAME -->`` and ``<!-- end -->`` written anew."""
    tables_of = _of_a_run() if generated is None else generated
    return re.sub(
        r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)",
        lambda found: f"{found[1]}{tables_of[found[2]]}\n{found[3]}",
        text,
        flags=re.DOTALL,
    )


def _of_a_run() -> dict[str, str]:
    return {
        "columns": _columns_of_results(),
        "images": columns_of(ImageRecord),
        "fooled": _columns_of_fooled(),
        "smoothed": columns_of(SmoothedRecord),
        "tables": _tables_of_the_store(),
    }


def columns_of(declared: type) -> str:
    """The table of a class whose fields are columns of a file."""
    return _table((f"`{column}`", text) for column, text in descriptions(declared).items())


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


def _columns_of_fooled() -> str:
    spread = f"{_listed(MEASURES)}, each with `_COMPARISON`, which is {_listed(FOOLED_BY)}"
    names = {field.name: _listed(field.metadata.get(SPREAD, [field.name])) for field in fields(FooledRecord)}
    columns = descriptions(FooledRecord).items()
    return _table((spread if column == "values" else names[column], text) for column, text in columns)


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
