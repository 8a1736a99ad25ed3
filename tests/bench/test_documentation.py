"""The reference of columns says what their declarations say, and every column is described."""

from dataclasses import fields
from pathlib import Path

import pytest

from robustbench_bcos.bench.documentation import descriptions, update_page, with_tables
from robustbench_bcos.bench.fooled import FooledRecord
from robustbench_bcos.bench.records import ImageRecord, Record
from robustbench_bcos.bench.rows import tables

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(("page", "generated"), [("results.md", 3), ("fooled-maps.md", 1), ("certificates.md", 1)])
def test_a_page_is_what_the_declarations_give(page: str, generated: int) -> None:
    """Where it is not: ``update_page(DOCS / page)``."""
    text = (DOCS / page).read_text(encoding="utf-8")
    assert text.count("<!-- generated: ") == text.count("<!-- end -->") == generated
    assert with_tables(text) == text


@pytest.mark.parametrize(
    "declared", [Record, ImageRecord, FooledRecord, *tables()], ids=lambda declared: declared.__name__
)
def test_every_column_is_described(declared: type) -> None:
    found = descriptions(declared)
    assert list(found) == [field.name for field in fields(declared)]
    assert all(text.endswith((".", ")", "]")) for text in found.values()), found


def test_a_page_is_written_anew_and_the_rest_of_it_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("Before.\n\n<!-- generated: columns -->\nold\n<!-- end -->\n\nAfter.\n", encoding="utf-8")
    update_page(page)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("Before.\n\n<!-- generated: columns -->\n| column | meaning |\n")
    assert text.endswith(" |\n<!-- end -->\n\nAfter.\n")
    assert "old\n" not in text
    # No markup of docstrings is left.
    assert "``" not in text
