"""The page says what the declarations of the columns say."""

from dataclasses import fields
from pathlib import Path

import pytest

from robustbench_bcos.bench.documentation import descriptions, with_tables
from robustbench_bcos.localisation.documentation import tables
from robustbench_bcos.localisation.rows import ComparisonRow, LocalisationRow, ScoreRow

PAGE = Path(__file__).parents[2] / "docs" / "localisation.md"


def test_the_page_is_what_the_declarations_give() -> None:
    """Where it is not: ``update_page(PAGE, tables())``."""
    text = PAGE.read_text(encoding="utf-8")
    assert text.count("<!-- generated: ") == text.count("<!-- end -->") == 3
    assert with_tables(text, tables()) == text


@pytest.mark.parametrize("declared", [ComparisonRow, LocalisationRow, ScoreRow])
def test_every_column_is_described(declared: type) -> None:
    found = descriptions(declared)
    assert list(found) == [field.name for field in fields(declared)]
    assert all(text.endswith((".", ")")) for text in found.values()), found
