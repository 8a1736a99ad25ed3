"""Wide tables: a column for each threat, named by what differs, and the steps of an attack side by side."""

from typing import Any

import pandas as pd
import pytest

from robustbench_bcos.reports.tables import column_names, wide_table
from tests.reports.handmade import record, table


def counts(records: pd.DataFrame) -> pd.DataFrame:
    return wide_table(records, lambda row: str(row["robust_correct"]))


def names(*changes: dict[str, Any]) -> list[str]:
    return column_names(table(*(record("net", 10, **each) for each in changes))).tolist()


def test_few_steps_stand_before_many_in_one_cell_whatever_the_order_of_rows() -> None:
    for order in (slice(None), slice(None, None, -1)):
        rows = [record("net", 30, steps=20), record("net", 20, steps=100), record("net", 25, steps=50)][order]
        assert counts(table(*rows)).loc["net"].tolist() == ["30 / 25 / 20"]


def test_models_and_threats_keep_the_order_of_the_run() -> None:
    wide = counts(
        table(*(record(m, robust, eps=eps) for robust, (m, eps) in enumerate([("z", "2"), ("z", "0.25"), ("a", "2")])))
    )
    assert wide.index.tolist() == ["z", "a"]
    assert wide.columns.tolist() == ["l2 2", "l2 0.25"]
    assert wide.to_numpy().tolist() == [["0", "1"], ["2", ""]]


def test_a_column_is_named_by_norm_and_radius_as_written() -> None:
    assert names({"norm": "linf", "eps": "8/255"}, {"norm": "l2", "eps": "0.50"}) == ["linf 8/255", "l2 0.50"]


@pytest.mark.parametrize(
    ("key", "values", "shown"),
    [
        ("restarts", (1, 5), ["1 restarts", "5 restarts"]),
        ("start", ("image", "random"), ["image", "random"]),
        ("select", ("any", "best-loss"), ["any", "best-loss"]),
        ("space", ("image", "encoded"), ["image", "encoded"]),
        ("loss", ("ce", "margin"), ["ce", "margin"]),
    ],
)
def test_only_what_differs_is_in_the_names(key: str, values: tuple[Any, Any], shown: list[str]) -> None:
    assert names({key: values[0]}, {key: values[1]}) == [f"l2 0.5 {name}" for name in shown]
    assert names({key: values[1]}, {key: values[1], "eps": "1"}) == ["l2 0.5", "l2 1"]


def test_steps_do_not_make_a_column() -> None:
    assert names({"steps": 20}, {"steps": 100}) == ["l2 0.5", "l2 0.5"]


def test_losses_that_auto_gave_to_families_share_a_column() -> None:
    wide = counts(table(record("net", 10, loss="ce"), record("bcos", 20, loss="bce")))
    assert wide.columns.tolist() == ["l2 0.5"]
    assert wide["l2 0.5"].to_dict() == {"net": "10", "bcos": "20"}


def test_noise_differs_from_gradients_in_nothing_but_its_name() -> None:
    noise = {"attack": "noise", "steps": 0, "loss": "", "start": "random"}
    rows = [record("net", 10, loss="ce"), record("net", 90, **noise), record("bcos", 20, loss="bce")]
    wide = counts(table(*rows, record("bcos", 95, **noise)))
    assert wide.columns.tolist() == ["l2 0.5 pgd", "l2 0.5 noise"]
    assert wide.to_numpy().tolist() == [["10", "90"], ["20", "95"]]


def test_a_threat_that_a_model_was_not_put_to_is_left_empty() -> None:
    assert counts(table(record("a", 1), record("b", 2, norm="linf"))).to_numpy().tolist() == [["1", ""], ["", "2"]]
