"""Wide tables: a column for each threat, named by what differs, and the steps of an attack side by side."""

from typing import Any

import pandas as pd
import pytest

from robustbench_bcos.bench.records import KEY
from robustbench_bcos.reports.tables import (
    COLUMN_KEYS,
    NAMED_ALWAYS,
    attack_texts,
    attacks_of,
    column_names,
    wide_table,
)
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
    assert wide.columns.tolist() == ["l2 2 pgd", "l2 0.25 pgd"]
    assert wide.to_numpy().tolist() == [["0", "1"], ["2", ""]]


def test_a_column_is_named_by_norm_radius_as_written_and_attack() -> None:
    assert names({"norm": "linf", "eps": "8/255"}, {"norm": "l2", "eps": "0.50"}) == ["linf 8/255 pgd", "l2 0.50 pgd"]
    assert names({"attack": "apgd"}, {"attack": "autoattack"}) == ["l2 0.5 apgd", "l2 0.5 autoattack"]


@pytest.mark.parametrize(
    ("key", "values", "shown"),
    [
        ("restarts", (1, 5), ["1 restart", "5 restarts"]),
        ("start", ("image", "random"), ["image", "random"]),
        ("loss", ("ce", "margin"), ["ce", "margin"]),
        ("step_size", (0.1, 0.25), ["0.1 step size", "0.25 step size"]),
        ("queries", (100, 5000), ["100 queries", "5000 queries"]),
        ("targets", (3, 9), ["3 targets", "9 targets"]),
    ],
)
def test_only_what_differs_is_in_the_names(key: str, values: tuple[Any, Any], shown: list[str]) -> None:
    assert names({key: values[0]}, {key: values[1]}) == [f"l2 0.5 pgd {name}" for name in shown]
    assert names({key: values[1]}, {key: values[1], "eps": "1", "epsilon": 1.0}) == ["l2 0.5 pgd", "l2 1 pgd"]


@pytest.mark.parametrize(
    ("key", "value"),
    [("space", "encoded"), ("select", "best_loss"), ("criterion", "targeted:3"), ("options", "fab=False")],
)
def test_what_a_reader_would_not_take_a_number_for_is_named_even_alone(key: str, value: str) -> None:
    assert names({key: value}) == [f"l2 0.5 pgd {value}"]


def test_whatever_tells_rows_apart_tells_their_columns_apart() -> None:
    other: dict[str, Any] = {
        key: "other" if isinstance(record("net", 1)[key], str) else 7 for key in (*NAMED_ALWAYS, *COLUMN_KEYS)
    }
    assert {*other, "epsilon"} == set(KEY) - {"model", "dataset", "steps", "seed"} | {"eps"}
    for key, value in other.items():
        first, second = names({}, {key: value} | ({"epsilon": 7.0} if key == "eps" else {}))
        assert first != second, key


def test_step_sizes_that_follow_from_epsilon_and_steps_are_not_named() -> None:
    grid = [{"eps": str(eps), "epsilon": eps, "steps": n, "step_size": 2.5 * eps / n} for eps in (1, 2) for n in (5, 9)]
    assert names(*grid) == ["l2 1 pgd", "l2 1 pgd", "l2 2 pgd", "l2 2 pgd"]


def test_a_heading_names_attacks_and_the_steps_that_share_a_cell() -> None:
    rows = table(
        record("net", 1), record("net", 1, steps=100), record("net", 1, attack="noise", steps=0),
        record("net", 1, attack="autoattack", steps=100, options="fab=False"),
    )  # fmt: skip
    assert attacks_of(rows) == "pgd and noise and autoattack fab=False"
    assert attacks_of(rows, steps=True) == "pgd (20 / 100 steps) and noise and autoattack fab=False (100 steps)"


def test_a_heading_names_what_tells_two_of_one_attack_apart() -> None:
    losses = table(*(record("net", 1, loss=loss, restarts=n) for loss in ("ce", "margin") for n in (1, 2)))
    assert attacks_of(losses) == "pgd (ce / margin, 1 / 2 restarts)"
    assert attacks_of(table(record("net", 1, loss="ce"), record("bcos", 1, loss="bce"))) == "pgd"


def test_titles_of_two_of_one_attack_differ() -> None:
    losses = table(
        record("net", 1, loss="ce"), record("net", 1, loss="margin"), record("net", 1, attack="noise", steps=0, loss="")
    )
    assert attack_texts(losses).tolist() == ["pgd l2 0.5 ce, 20 steps", "pgd l2 0.5 margin, 20 steps", "noise l2 0.5"]


def test_steps_do_not_make_a_column() -> None:
    assert names({"steps": 20}, {"steps": 100}) == ["l2 0.5 pgd", "l2 0.5 pgd"]


def test_losses_that_auto_gave_to_families_share_a_column() -> None:
    wide = counts(table(record("net", 10, loss="ce"), record("bcos", 20, loss="bce")))
    assert wide.columns.tolist() == ["l2 0.5 pgd"]
    assert wide["l2 0.5 pgd"].to_dict() == {"net": "10", "bcos": "20"}


def test_noise_differs_from_gradients_in_nothing_but_its_name() -> None:
    noise = {"attack": "noise", "steps": 0, "loss": "", "start": "random"}
    rows = [record("net", 10, loss="ce"), record("net", 90, **noise), record("bcos", 20, loss="bce")]
    wide = counts(table(*rows, record("bcos", 95, **noise)))
    assert wide.columns.tolist() == ["l2 0.5 pgd", "l2 0.5 noise"]
    assert wide.to_numpy().tolist() == [["10", "90"], ["20", "95"]]


def test_a_threat_that_a_model_was_not_put_to_is_left_empty() -> None:
    assert counts(table(record("a", 1), record("b", 2, norm="linf"))).to_numpy().tolist() == [["1", ""], ["", "2"]]
