"""CSV that neither a terminal nor a spreadsheet program acts upon, and that is read back as it was."""

from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from robustbench_bcos.reports.comparison import compare
from robustbench_bcos.reports.comparison_formats import FORMATS
from robustbench_bcos.reports.exports import export
from robustbench_bcos.reports.results import read_results
from robustbench_bcos.reports.spreadsheet import as_written, csv_of
from tests.reports.handmade import record, run_of, table

HOSTILE = ["=1+1", "+A1", "-cmd|' /C calc'!A0", "@SUM(A1)", "\x1b[2Jnet", "\tx"]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_text_that_would_be_computed_has_an_apostrophe_in_front(name: str) -> None:
    text = csv_of(pd.DataFrame({"model": [name], name: [1]}))
    for cell in pd.read_csv(StringIO(text), header=None, dtype=str).to_numpy().ravel():
        assert not cell.startswith(("=", "+", "-", "@", "\t"))
        assert "\x1b" not in cell


def test_numbers_and_other_texts_are_as_pandas_writes_them() -> None:
    plain = pd.DataFrame(
        {
            "model": ["'quoted'", 'a, "b"', "two\nlines", "", "net-b2"],
            "low": [-0.25, 1e-7, -0.0, 1 / 3, float("nan")],
            "eps": ["-0.5", "8/255", "", None, "a,b"],
            "b": [None, 2, True, 1, 1.0],
            "difference": [None, np.float64(0.1), np.float32(0.5), np.int64(3), np.True_],
            "robust": [True, False, True, True, False],
            "image": [0, -1, 2**40, 3, 4],
            "eight_bit": pd.array([1, None, 0, 1, 1], dtype="Int64"),
        }
    )
    assert csv_of(plain) == plain.to_csv(index=False)
    assert csv_of(plain[["eps"]]) == plain[["eps"]].to_csv(index=False)
    assert csv_of(plain.set_index("model"), index_label="model") == plain.set_index("model").to_csv(index_label="model")


def test_names_are_read_back_as_they_were(tmp_path: Path) -> None:
    for name in ("=1+1", "@net", "'=net", "net"):
        export(run_of(table(record(name, 90)), tmp_path))
        assert read_results(tmp_path / "results.csv").records["model"].tolist() == [name]
        assert (tmp_path / "table_l2.csv").read_text(encoding="utf-8").splitlines()[1].startswith(("'", "net"))


@pytest.mark.parametrize("style", FORMATS)
def test_no_format_of_a_comparison_has_control_characters(style: str, tmp_path: Path) -> None:
    export(run_of(table(record("a\x1b[2J", 90), record("b\u202e", 80)), tmp_path))
    comparison = compare([read_results(tmp_path / "results.csv")])
    comparison = comparison._replace(notes=["\x1b]0;title"])
    assert FORMATS[style](comparison).replace("\n", "").isprintable()


def test_only_what_was_put_in_front_is_taken_away() -> None:
    assert [as_written(text) for text in ("'=a", "'a", "a", "'", "")] == ["=a", "'a", "a", "'", ""]
