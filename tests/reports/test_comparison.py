"""Models side by side: what is aligned, how differences are tested, and what is said to differ."""

import math
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.random import Generator, default_rng
from scipy import stats

from robustbench_bcos.bench.records import USUAL
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.reports.comparison import (
    GROUPS,
    INCOMPARABLE,
    NAMED,
    VARIANT,
    Comparison,
    compare,
)
from robustbench_bcos.reports.comparison_formats import readable
from robustbench_bcos.reports.marks import legend, marked
from robustbench_bcos.reports.results import Results
from tests.reports.handmade import TOTAL, record, table

OTHER: dict[str, Any] = {
    "dataset": "cifar10",
    "subset": "ba9876543210",
    "images": 150,
    "space": "encoded",
    "select": "last",
    "start": "random",
    "step_size": 0.25,
    "loss": "dlr",
    "seed": 1,
    "training": "adversarial l2 0.5",
    "architecture": "bcos_resnet8",
    "encoding": "add_inverse",
    "evidence": "full",
    "criterion": "targeted",
    "queries": 7,
    "targets": 3,
    "options": "width=2",
    "draws": 8,
}
"""For each column that may differ, another value than that of ``record``."""
APART = ("dataset", "subset", "images", "space", "select", "criterion")
"""Where these differ, other images were counted, or counted in another way."""
THREAT = "pgd l2 0.5 20 steps"
NOISE: dict[str, Any] = {"attack": "noise", "steps": 0, "step_size": None, "loss": "", "start": "random"}


def source(*rows: dict[str, Any], name: str = "a.csv", survivors: list[str] | None = None) -> Results:
    return Results(source=Path(name), records=table(*rows), survivors=dict(enumerate(survivors or [])))


def line(comparison: Comparison, model: str, threat: str = THREAT) -> dict[str, Any]:
    found = comparison.table
    (row,) = found[(found["model"] == model) & (found["threat"] == threat)].to_dict("records")
    return {str(key): value for key, value in row.items()}


def has_no_difference(row: dict[str, Any]) -> bool:
    return all(pd.isna(row[column]) for column in ("difference", "low", "high", "p"))


def bits(random: Generator, share: float, count: int = TOTAL) -> str:
    return "".join(str(int(bit)) for bit in random.random(count) < share)


def withstood(model: str, survivors: str, **changes: Any) -> dict[str, Any]:
    robust = survivors.count("1")
    return record(model, 0, images=len(survivors), **{"robust_correct": robust, "worst_correct": robust} | changes)


# What is put side by side


def test_models_of_several_sources_are_rows_of_one_table() -> None:
    found = compare([source(record("a", 120), record("b", 90)), source(record("c", 60), name="c.csv")])
    assert found.table["model"].tolist() == ["a", "b", "c"]
    assert found.table["threat"].tolist() == 3 * [THREAT]
    assert found.table["correct"].tolist() == [120, 90, 60]
    assert found.table["difference"].tolist()[1:] == pytest.approx([-0.15, -0.3], rel=1e-12)  # division and subtraction


@pytest.mark.parametrize(
    ("changes", "threat"),
    [
        ({"attack": "apgd"}, "apgd l2 0.5 20 steps"),
        ({"norm": "linf"}, "pgd linf 0.5 20 steps"),
        ({"eps": "1/4", "epsilon": 0.25}, "pgd l2 1/4 20 steps"),
        ({"steps": 100}, "pgd l2 0.5 100 steps"),
        ({"restarts": 3}, "pgd l2 0.5 20 steps 3 restarts"),
        (NOISE, "noise l2 0.5"),
    ],
)
def test_rows_under_different_threats_are_not_compared(changes: dict[str, Any], threat: str) -> None:
    found = compare([source(record("a", 120), record("b", 90, **changes))])
    assert found.table["threat"].tolist() == [THREAT, threat]
    assert has_no_difference(line(found, "b", threat))
    assert len(found.notes) == 1


@pytest.mark.parametrize(("texts", "shown"), [(["8/255", "0.0313725"], "8/255"), (["0.0313725", "8/255"], "0.0313725")])
def test_one_epsilon_in_two_notations_is_one_threat_and_differs_in_nothing(texts: list[str], shown: str) -> None:
    values = {"8/255": 8 / 255, "0.0313725": 0.0313725}
    rows = [
        record(model, 100, eps=text, epsilon=values[text], step_size=2.5 * values[text] / 20)
        for model, text in zip("ab", texts, strict=True)
    ]
    found = compare([source(rows[0]), source(rows[1], name="b.csv")])
    assert found.table["threat"].tolist() == 2 * [f"pgd l2 {shown} 20 steps"]
    assert line(found, "b", f"pgd l2 {shown} 20 steps")["difference"] == 0
    assert len(found.notes) == 1


def test_one_model_alone_has_an_interval_and_no_difference() -> None:
    found = compare([source(record("a", 120))])
    assert line(found, "a")["accuracy"] == 0.6
    assert list(found.table) == ["threat", "model", "correct", "images", "accuracy", "trust", "ci_low", "ci_high"]
    assert found.notes == []


def test_threats_of_one_model_stand_below_each_other_without_statistics() -> None:
    found = compare(
        [source(*(record("a", robust, eps=str(eps), epsilon=eps) for robust, eps in ((120, 0.5), (60, 1.0))))],
        by="family",
    )
    assert found.table["threat"].tolist() == ["pgd l2 0.5 20 steps", "pgd l2 1.0 20 steps"]
    assert not {"difference", "p", "test"} & set(found.table)


# Marks


@pytest.mark.parametrize(
    ("trusts", "of_difference"),
    [
        (("sound", "sound"), "sound"),
        (("sound", "suspect"), "suspect"),
        (("suspect", "sound"), "suspect"),
        (("unchecked", "sound"), "unchecked"),
        (("unchecked", "suspect"), "suspect"),
    ],
)
def test_a_number_has_the_trust_of_its_row_and_a_difference_the_least_of_both(
    trusts: tuple[str, str], of_difference: str
) -> None:
    rows = [record(model, 90, trust=trust, reasons="noise") for model, trust in zip("ab", trusts, strict=True)]
    found = compare([source(*rows)])
    assert found.table["trust"].tolist() == list(trusts)
    assert found.table["difference_trust"].tolist() == ["", of_difference]
    assert found.legend == legend(trusts)
    shown = readable(found.table)
    assert shown["accuracy %"].tolist() == [marked("45.0", trust) for trust in trusts]
    assert shown["difference, points"].tolist() == ["", marked("+0.0", of_difference)]
    assert "trust" not in shown


@pytest.mark.parametrize(("column", "value"), [(column, OTHER[column]) for column in USUAL])
def test_what_every_row_has_and_a_reader_may_not_expect_is_a_note(column: str, value: str) -> None:
    for models in ("a", "ab"):
        notes = compare([source(*(record(model, 90, **{column: value}) for model in models))]).notes
        assert f"Every row: {column} {value}." in notes
    assert not any(note.startswith("Every row") for note in compare([source(record("a", 90))]).notes)


def test_why_a_number_is_marked_is_a_note() -> None:
    rows = [record("a", 90, trust="suspect", reasons="noise"), record("b", 90)]
    assert "Suspect (?): a (noise); see docs/evidence.md." in compare([source(*rows)]).notes


# Who is compared


def test_a_model_of_several_sources_is_named_with_each() -> None:
    found = compare([source(record("a", 120), record("b", 1)), source(record("a", 90), name="later/b.csv")])
    assert found.table["model"].tolist() == ["a (a.csv)", "b", "a (later/b.csv)"]
    assert line(found, "a (later/b.csv)")["difference"] == pytest.approx(-0.15, rel=1e-12)  # rounding


@pytest.mark.parametrize("column", ["dataset", *dict.fromkeys(column for column in VARIANT if column != "dataset")])
def test_rows_of_one_model_under_one_threat_are_named_by_what_tells_them_apart(column: str) -> None:
    rows = [record(model, 120, **changes) for changes in ({}, {column: OTHER[column]}) for model in "ab"]
    found = compare([source(*rows)])
    values = [f" {column} {row[column]}" if row[column] != "" else "" for row in (rows[0], rows[2])]
    names = [f"{model}{value}" for value in values for model in "ab"]
    assert found.table["model"].tolist() == names
    # The reference is the first row, not another one of its model.
    assert not has_no_difference(line(found, names[1]))
    assert found.table["test"].tolist()[0] == ""


def test_what_an_attack_does_not_have_is_not_part_of_a_name() -> None:
    rows = [record("a", 120, loss=loss) for loss in ("ce", "dlr")]
    found = compare([source(*rows, record("a", 190, **NOISE))])
    assert found.table["model"].tolist() == ["a loss ce", "a loss dlr", "a"]


def test_a_loss_that_belongs_to_the_model_is_not_part_of_its_name() -> None:
    found = compare([source(record("net", 120), record("bcos", 90, loss="bce"))])
    assert found.table["model"].tolist() == ["net", "bcos"]


# Differences where it is known which images withstood


@pytest.mark.parametrize("seed", range(3))
def test_known_images_are_compared_by_mcnemar_and_a_paired_bootstrap(seed: int) -> None:
    random = default_rng(seed)
    old, new = bits(random, 0.7), bits(random, 0.55)
    found = compare([source(withstood("a", old), withstood("b", new), survivors=[old, new])])
    row = line(found, "b")
    lost, won = (sum(pair == moved for pair in zip(old, new, strict=True)) for moved in (("1", "0"), ("0", "1")))
    assert row["test"] == "McNemar"
    assert row["difference"] == pytest.approx((won - lost) / TOTAL, rel=1e-12)  # rounding
    assert row["p"] == pytest.approx(stats.binomtest(lost, lost + won, 0.5).pvalue, rel=1e-12)  # the same sum
    low, high = bootstrapped(old, new, random)
    # Quantiles of two samples of some thousand means on a grid of 1 / 200.
    assert (row["low"], row["high"]) == pytest.approx((low, high), abs=0.011)


def bootstrapped(old: str, new: str, random: Generator, draws: int = 4000) -> tuple[float, float]:
    """Images drawn with replacement, again and again: where the middle 95 % of the mean differences lie."""
    differences = np.array([int(after) - int(before) for before, after in zip(old, new, strict=True)])
    means = sorted(differences[random.integers(len(old), size=len(old))].mean() for _ in range(draws))
    return means[round(0.025 * draws)], means[round(0.975 * draws) - 1]


def test_images_are_paired_across_sources_and_the_answer_is_the_same_every_time() -> None:
    random = default_rng(3)
    old, new = bits(random, 0.6), bits(random, 0.5)
    together = compare([source(withstood("a", old), withstood("b", new), survivors=[old, new])])
    apart = [
        source(withstood("a", old), survivors=[old]),
        source(withstood("c", old, norm="linf"), withstood("b", new), name="b.csv", survivors=[old, new]),
    ]
    for found in (compare(apart), compare(apart)):
        assert line(found, "b") == line(together, "b")


def test_the_same_images_withstood_means_no_difference() -> None:
    found = compare([source(withstood("a", "1101"), withstood("b", "1101"), survivors=["1101", "1101"])])
    row = line(found, "b")
    assert (row["difference"], row["low"], row["high"], row["p"]) == (0, 0, 0, 1)


def test_other_images_withstood_is_no_difference_in_number() -> None:
    found = compare([source(withstood("a", "1100"), withstood("b", "0011"), survivors=["1100", "0011"])])
    row = line(found, "b")
    assert (row["difference"], row["p"]) == (0, 1)
    assert row["low"] < 0 < row["high"]


def test_ten_thousand_images_are_compared_without_a_gigabyte() -> None:
    random = default_rng(0)
    old, new = bits(random, 0.6, 10_000), bits(random, 0.6, 10_000)
    sources = [source(withstood("a", old), withstood("b", new), survivors=[old, new])]
    tracemalloc.start()
    compare(sources)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**27


# Differences of counts


@pytest.mark.parametrize("known", [["", ""], ["1", ""], ["", "1"]])
@pytest.mark.parametrize(("before", "after"), [(120, 90), (0, 0), (200, 0), (200, 200), (1, 7)])
def test_counts_are_compared_by_fisher_and_newcombe(known: list[str], before: int, after: int) -> None:
    survivors = [
        ("1" * count).ljust(TOTAL, "0") if bit else "" for bit, count in zip(known, (before, after), strict=True)
    ]
    row = line(compare([source(record("a", before), record("b", after), survivors=survivors)]), "b")
    assert row["test"] == "Fisher"
    counts = [[before, TOTAL - before], [after, TOTAL - after]]
    # Sums of the same probabilities in another order.
    assert row["p"] == pytest.approx(stats.fisher_exact(counts).pvalue, rel=1e-9)
    assert (row["low"], row["high"]) == pytest.approx(newcombe(after, before, TOTAL), abs=1e-12)  # rounding
    assert row["low"] <= row["difference"] <= row["high"]


def newcombe(first: int, second: int, total: int) -> tuple[float, float]:
    """Method 10 of Newcombe (1998): a difference's interval from the score intervals of both proportions."""
    (p, low, high), (q, other_low, other_high) = (score(count, total) for count in (first, second))
    return p - q - math.hypot(p - low, other_high - q), p - q + math.hypot(high - p, q - other_low)


def score(count: int, total: int) -> tuple[float, float, float]:
    """Proportion, and both roots of (p - pi)^2 = z^2 pi (1 - pi) / n."""
    z, p = stats.norm.ppf(0.975), count / total
    roots = np.roots([1 + z**2 / total, -2 * p - z**2 / total, p**2])
    return p, float(min(roots).real), float(max(roots).real)


def test_accuracies_have_the_interval_of_their_count() -> None:
    row = line(compare([source(record("a", 137))]), "a")
    assert (row["accuracy"], row["ci_low"], row["ci_high"]) == pytest.approx(score(137, TOTAL), rel=1e-9)  # roots


def test_the_worst_case_is_what_counts_and_is_paired() -> None:
    survivors = ["1" * 120 + "0" * 80, "1" * 80 + "0" * 120]
    rows = [record("a", 120), record("b", 90, worst_correct=80, robust_accuracy_worst=0.4)]
    row = line(compare([source(*rows, survivors=survivors)]), "b")
    assert (row["correct"], row["accuracy"], row["test"]) == (80, 0.4, "McNemar")
    assert row["difference"] == pytest.approx(-0.2, rel=1e-12)  # rounding


def test_p_values_are_corrected_over_the_whole_table() -> None:
    counts = {"b": 118, "c": 60, "d": 95, "e": 121}
    rows = [record("a", 120), *(record(model, count) for model, count in counts.items())]
    rows += [record("a", 150, norm="linf"), record("b", 100, norm="linf"), record("c", 149, subset="other")]
    found = compare([source(*(row for row in rows if row["subset"] != "other"))])
    plain = {count: stats.fisher_exact([[120, 80], [count, 200 - count]]).pvalue for count in counts.values()}
    ps = [*plain.values(), stats.fisher_exact([[150, 50], [100, 100]]).pvalue]
    corrected = found.table["p"].dropna().tolist()
    # Sums of the same probabilities in another order.
    assert corrected == pytest.approx(holm(ps), rel=1e-9)
    assert "over 5 rows" in found.notes[0]
    assert found.table["p"].isna().tolist() == [True, False, False, False, False, True, False]


def holm(ps: list[float]) -> list[float]:
    """The smallest times n, the next times n - 1, and so on; never less than one before, never above 1."""
    corrected, highest = dict.fromkeys(range(len(ps)), 0.0), 0.0
    for rank, place in enumerate(sorted(corrected, key=lambda place: ps[place])):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[place]))
        corrected[place] = highest
    return list(corrected.values())


# The reference


def test_the_reference_is_the_first_unless_another_is_chosen() -> None:
    sources = [source(record("a", 120), record("b", 90), record("c", 100))]
    first, chosen = compare(sources), compare(sources, reference="b")
    assert first.notes[0].startswith("Differences are to a;")
    assert chosen.notes[0].startswith("Differences are to b;")
    assert has_no_difference(line(first, "a"))
    assert has_no_difference(line(chosen, "b"))
    assert line(chosen, "a")["difference"] == pytest.approx(-line(first, "b")["difference"], rel=1e-12)  # rounding
    assert line(chosen, "c")["difference"] == pytest.approx(0.05, rel=1e-12)  # rounding


@pytest.mark.parametrize("known", [True, False])
def test_turning_a_comparison_round_turns_its_sign_and_nothing_else(known: bool) -> None:
    random = default_rng(5)
    old, new = bits(random, 0.6), bits(random, 0.5)
    sources = [source(withstood("a", old), withstood("b", new), survivors=[old, new] if known else None)]
    there, back = line(compare(sources), "b"), line(compare(sources, reference="b"), "a")
    assert back["p"] == there["p"]
    assert back["difference"] == -there["difference"]
    # A bootstrap's quantiles are not symmetrical to the last draw: means lie on a grid of 1 / 200.
    tolerance = 0.0051 if known else 1e-12
    assert (back["low"], back["high"]) == pytest.approx((-there["high"], -there["low"]), abs=tolerance)


def test_an_unknown_reference_is_refused_with_what_there_is() -> None:
    with pytest.raises(RequestError, match="unknown reference 'bcso': did you mean 'bcos'"):
        compare([source(record("a", 120), record("bcos", 90))], reference="bcso")


def test_a_threat_the_reference_was_not_put_to_has_no_differences() -> None:
    found = compare([source(record("a", 120), record("b", 90, norm="linf"), record("c", 80, norm="linf"))])
    assert found.table["difference"].isna().all()


# What is not comparable, and what differs besides


def test_images_and_how_they_are_counted_must_be_the_same_and_the_rest_is_named() -> None:
    assert set(INCOMPARABLE) == set(APART)
    assert set(NAMED) == set(OTHER) - {"seed"}


@pytest.mark.parametrize("column", APART)
def test_rows_that_are_not_comparable_have_no_difference_and_are_said_so(column: str) -> None:
    survivors = ["1" * 90 + "0" * 110, "1" * 120 + "0" * 80, "1" * 80 + "0" * (OTHER["images"] - 80)]
    other = record("c", 80, **{column: OTHER[column]})
    found = compare([source(record("a", 90), record("b", 120), other, survivors=survivors)])
    row = line(found, "c")
    assert has_no_difference(row)
    assert row["test"] == "not comparable"
    assert line(found, "b")["test"] == "McNemar"
    values = [record("a", 90)[column], OTHER[column]]
    assert found.notes[1:] == [f"Not comparable: {column} differs ({values[0]}: a, b; {values[1]}: c)."]
    assert "over 1 row" in found.notes[0]


@pytest.mark.parametrize("column", NAMED)
def test_notes_list_what_differs_and_nothing_else(column: str) -> None:
    rows = [record("a", 90), record("b", 80), record("c", 70, **{column: OTHER[column]})]
    _, *notes = compare([source(*rows)]).notes
    (note,) = notes
    assert note.removeprefix("Not comparable: ") == (f"{column} differs ({rows[0][column]}: a, b; {OTHER[column]}: c).")
    assert note.startswith("Not comparable: ") == (column in APART)


def test_nothing_is_noted_where_nothing_differs() -> None:
    rows = [record(model, 90, eps=str(eps), epsilon=eps, step_size=eps / 8) for model in "ab" for eps in (0.25, 0.5)]
    assert len(compare([source(*rows)]).notes) == 1


def test_what_does_not_differ_under_a_threat_is_not_listed_with_it() -> None:
    wide = {"eps": "1", "epsilon": 1.0, "step_size": 0.125}
    rows = [record("a", 90), record("b", 80, step_size=0.5), record("a", 70, **wide), record("b", 60, **wide)]
    assert compare([source(*rows)]).notes[1:] == ["step_size differs (0.0625: a; 0.5: b)."]


def test_models_of_one_name_are_told_apart_in_notes() -> None:
    (note,) = compare([source(record("a", 90)), source(record("a", 80, loss="dlr"), name="b.csv")]).notes[1:]
    assert note == "loss differs (ce: a (a.csv); dlr: a (b.csv))."


@pytest.mark.parametrize("unknown", [None, ""], ids=["of an older version", "of one's own code"])
def test_what_is_not_known_is_not_said_to_differ(unknown: str | None) -> None:
    rows = [
        record("a", 90, encoding=unknown),
        record("b", 80, encoding="none"),
        record("c", 80, encoding="add_inverse"),
    ]
    assert compare([source(*rows)]).notes[1:] == ["encoding differs (none: b; add_inverse: c)."]


# Groups


@pytest.mark.parametrize("by", GROUPS)
def test_a_group_stays_together_and_changes_no_number(by: str) -> None:
    values: dict[str, list[Any]] = {"B": [2.0, 1.25], "norm": ["linf", "l2"]}
    one, other = values.get(by, ["later", "earlier"])
    column = GROUPS[by]
    rows = [
        record("a", 120, **{column: one}),
        record("b", 90, **{column: other}),
        record("c", 80, **{column: one}),
        record("d", 70, **{column: None if by == "B" else other}),
    ]
    plain, grouped = compare([source(*rows)]), compare([source(*rows)], by=by)
    assert grouped.table.columns[0] == by
    expected = [other, one, one, None] if by == "B" else [other, other, one, one]
    assert [None if pd.isna(value) else value for value in grouped.table[by]] == expected
    pd.testing.assert_frame_equal(grouped.table.drop(columns=by).sort_index(), plain.table, check_dtype=False)


def test_an_unknown_group_is_refused_with_what_there_is() -> None:
    with pytest.raises(RequestError, match="unknown group 'familly': did you mean 'family'"):
        compare([source(record("a", 90))], by="familly")


# Filters


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ("norm == 'l2' and epsilon > 0.3", ["a", "c"]),
        ("norm == 'linf' or model == 'a'", ["a", "d"]),
        ("not (model in ['a', 'c'])", ["b", "d"]),
        ("'c' in model", ["c"]),
        ("model not in ('a', 'b') and norm == 'l2'", ["c"]),
        ("b > 1.5", ["c"]),
        ("b != 2", ["a", "b", "d"]),
        ("not b < 3", ["a", "b", "d"]),
        ("0.25 <= epsilon < 1/2", ["b"]),
        ("epsilon in [1/4, 99]", ["b"]),
        ("model in []  or model == 'd'", ["d"]),
        ("eps == '1/4'", ["b"]),
    ],
)
def test_a_filter_keeps_the_rows_that_fulfil_it(where: str, kept: list[str]) -> None:
    rows = [record("a", 90), record("b", 80, eps="1/4", epsilon=0.25), record("c", 70, b=2.0)]
    rows += [record("d", 60, norm="linf")]
    assert compare([source(*rows)], where=where).table["model"].tolist() == kept


def test_a_filter_comes_before_the_reference() -> None:
    found = compare([source(record("a", 90), record("b", 80), record("c", 70))], where="model != 'a'")
    assert found.notes[0].startswith("Differences are to b;")


def test_survivors_stay_with_their_rows_through_a_filter() -> None:
    survivors = ["1111", "1100", "0111"]
    rows = [withstood(model, kept) for model, kept in zip("abc", survivors, strict=True)]
    (_, row) = compare([source(*rows, survivors=survivors)], where="model != 'a'").table.to_dict("records")
    assert (row["model"], row["test"], row["difference"], row["p"]) == ("c", "McNemar", 0.25, 1)


@pytest.mark.parametrize(
    "where",
    [
        *["", "norm ==", "norm = 'l2'", "norm == 'l2'\nepsilon > 0", "))", "\0", "(" * 400, "not " * 900, "e" * 2_000],
        *["nothing > 1", "index > 0", "epsilon > 'a'", "norm > 1", "epsilon > True", "epsilon > 1/0", "norm == None"],
        *["seed", "1", "True", "model", "-epsilon", "steps + 1", "'a'", "[]", "norm == norm", "1 == 1", "1 in epsilon"],
        *["@mine", "f(1)", "model.str.startswith('c')", "model[0] == 'a'", "model == f'{1}'", "model is 'a'"],
        *["(lambda: 1)() == epsilon", "[x for x in model]", "(x := 1) == epsilon", "epsilon == 2**9**9**9"],
    ],
)
def test_what_is_no_condition_is_refused_in_one_line(where: str) -> None:
    with pytest.raises(RequestError, match=r"--filter .*write norm == 'l2' and epsilon > 0\.1, say$") as caught:
        compare([source(record("a", 90), record("b", 80))], where=where)
    assert "\n" not in str(caught.value)


def test_a_filter_cannot_call_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Conditions are handed on by other programs, and pandas would call what they name."""
    monkeypatch.chdir(tmp_path)
    for call in ("model.to_csv('written')", "model.map(print) == 'a'", "__import__('os').mkdir('made') == 1"):
        with pytest.raises(RequestError, match="--filter"):
            compare([source(record("a", 90))], where=call)
    assert list(tmp_path.iterdir()) == []


def test_a_filter_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(RequestError, match="leaves no rows"):
        compare([source(record("a", 90))], where="norm == 'linf'")
