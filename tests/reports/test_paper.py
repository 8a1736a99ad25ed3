"""The table for a paper: the layout of the field, with marks and what they mean in every format."""

import csv
import io

import pandas as pd
import pytest

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.reports.comparison_formats import FORMATS
from robustbench_bcos.reports.marks import legend
from robustbench_bcos.reports.paper import paper_table
from tests.reports.handmade import record, run_of, table

ROWS = [
    record("net_1", 60, steps=20, trust="suspect", reasons="noise"),
    record("net_1", 50, steps=100),
    record("net_1", 10, norm="linf", eps="8/255", trust="unchecked"),
    record("b & c", 80, clean=180, steps=20),
    record("b & c", 70, clean=180, steps=100),
]


def test_rows_are_models_columns_epsilons_and_few_steps_stand_before_many() -> None:
    found = paper_table(run_of(table(*ROWS)))
    assert list(found.table) == ["model", "clean", "l2 0.5 pgd", "linf 8/255 pgd"]
    assert found.table.to_numpy().tolist() == [
        ["net_1", "95.0", "30.0? / 25.0", "5.0†"],
        ["b & c", "90.0", "40.0 / 35.0", ""],
    ]
    assert found.notes[0].endswith("worst case over everything tried under pgd (20 / 100 steps).")
    assert found.legend == legend(["suspect", "unchecked"])


@pytest.mark.parametrize("style", [style for style in FORMATS if style != "csv"])
def test_every_format_has_the_marks_and_says_what_they_mean(style: str) -> None:
    text = FORMATS[style](paper_table(run_of(table(*ROWS))))
    assert "30.0? / 25.0" in text
    assert "5.0†" in text
    # In LaTeX, where comments are not printed.
    printed = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    assert all(line in printed for line in legend(["suspect", "unchecked"]))


def test_sound_numbers_have_no_legend_in_latex() -> None:
    text = FORMATS["latex"](paper_table(run_of(table(record("net", 60)))))
    assert "multicolumn" not in text
    assert text.rstrip().endswith("\\bottomrule\n\\end{tabular}")


def test_a_csv_has_fractions_and_a_column_of_trust() -> None:
    text = FORMATS["csv"](paper_table(run_of(table(*ROWS)), fractions=True))
    assert list(csv.reader(io.StringIO(text))) == [
        ["model", "clean", "l2 0.5 pgd", "linf 8/255 pgd", "trust"],
        ["net_1", "0.95", "0.3? / 0.25", "0.05†", "1 suspect (?), 1 unchecked (†), 1 sound"],
        ["b & c", "0.9", "0.4 / 0.35", "", "sound"],
    ]


def test_what_is_missing_is_said_and_nothing_at_all_is_refused() -> None:
    assert "2 of 7 cells are not complete and are left out." in paper_table(run_of(table(*ROWS), missing=2)).notes
    with pytest.raises(RequestError, match="no complete cell: repeat the command"):
        paper_table(run_of(pd.DataFrame(table()), missing=1))
