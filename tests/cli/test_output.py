"""What is printed cannot command a terminal."""

import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text

from robustbench_bcos.cli.output import errors, results


@pytest.mark.parametrize("console", [results, errors], ids=["results", "errors"])
def test_control_characters_are_shown_in_sentences_and_tables(console: Console) -> None:
    table = Table("head\x1b[1m", title="title\x07")
    table.add_row(Text("cell\x1b[2J"))
    with console.capture() as capture:
        console.print("said \x1b[31m", markup=False, style="red")
        console.print(table)
    for shown in (r"said \x1b[31m", r"head\x1b[1m", r"cell\x1b[2J"):
        assert shown in capture.get()
