"""Recipes over their trainings: means, spread, and tests of the difference, of accuracies and of explanations."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.reports.comparison import VARIANT
from robustbench_bcos.reports.results import Results
from robustbench_bcos.reports.trainings import CLEAN, MEASURES, ROBUST, SIMILARITY, Comparison, measured, trainings
from robustbench_bcos.reports.trainings import compare_trainings as compare_all
from tests.reports.handmade import TOTAL, record
from tests.reports.test_comparison import APART, OTHER, THREAT, source


def compare_trainings(results: list[Results], **options: Any) -> Comparison:
    """Robust accuracies alone, unless others are asked for."""
    return compare_all(results, **{"measures": [ROBUST], **options})


def explained(model: str, cosine: float | None, **changes: Any) -> dict[str, Any]:
    found = {SIMILARITY: cosine, "explanation": "dynamic_weights", "explained_images": 30}
    return record(model, 100, **{**found, **changes})


def holm(ps: list[float]) -> list[float]:
    """By hand: the smallest times their number, the next times one less, never falling, never above 1."""
    order = np.argsort(ps)
    running = np.maximum.accumulate([(len(ps) - rank) * ps[place] for rank, place in enumerate(order)])
    corrected = np.empty(len(ps))
    corrected[order] = np.minimum(running, 1)
    return [float(p) for p in corrected]


# Robust accuracies


def test_trainings_of_a_recipe_are_compared_by_their_means() -> None:
    counts = {"net": [120, 131, 118], "bcos": [150, 141, 147, 160], "wide-b1.25": [119, 133]}
    rows = [
        record(f"{recipe}-seed{seed}", count) for recipe, values in counts.items() for seed, count in enumerate(values)
    ]
    found = compare_trainings([source(*rows)])
    assert found.table["recipe"].tolist() == list(counts)
    shares = {recipe: np.array(values) / TOTAL for recipe, values in counts.items()}
    ps = [stats.ttest_ind(shares[recipe], shares["net"], equal_var=False).pvalue for recipe in ("bcos", "wide-b1.25")]
    for row, values in zip(found.table.to_dict("records"), shares.values(), strict=True):
        interval = stats.t.interval(0.95, len(values) - 1, values.mean(), values.std(ddof=1) / math.sqrt(len(values)))
        assert row["trainings"] == len(values)
        # The same formulas in another order.
        assert (row["mean"], row["deviation"]) == pytest.approx((values.mean(), values.std(ddof=1)), rel=1e-9)
        assert (row["low"], row["high"]) == pytest.approx(interval, rel=1e-9)
    differences = [shares[recipe].mean() - shares["net"].mean() for recipe in ("bcos", "wide-b1.25")]
    assert found.table["difference"].tolist()[1:] == pytest.approx(differences, rel=1e-9)
    assert found.table["p"].tolist()[1:] == pytest.approx(holm(ps), rel=1e-9)
    pairs = [stats.ttest_ind(shares[recipe], shares["net"], equal_var=False) for recipe in ("bcos", "wide-b1.25")]
    bounds = [tuple(pair.confidence_interval(0.95)) for pair in pairs]
    assert found.table[["difference_low", "difference_high"]].to_numpy()[1:] == pytest.approx(
        np.array(bounds), rel=1e-9
    )
    assert found.table.loc[0, ["difference", "difference_low", "difference_high", "p"]].isna().all()
    assert found.notes == [
        "Differences are to net; their intervals are Welch's, p by Welch's t-test over trainings, corrected by Holm "
        "over 2 rows.",
        "Means are over 2 to 4 trainings: where the interval of a difference holds 0, neither a difference nor its "
        "absence was shown.",
    ]


def test_folds_are_trainings_too_and_may_come_from_several_runs() -> None:
    runs = [source(record(f"net-fold{fold}", 100 + fold), name=f"{fold}.csv") for fold in range(5)]
    (row,) = compare_trainings(runs).table.to_dict("records")
    assert (row["recipe"], row["trainings"]) == ("net", 5)
    assert row["mean"] == pytest.approx(0.51, rel=1e-12)  # rounding


def test_threats_are_kept_apart_over_trainings() -> None:
    rows = [record(f"net-seed{seed}", 100 - seed, norm=norm) for seed in (0, 1) for norm in ("l2", "linf")]
    found = compare_trainings([source(*rows)])
    assert found.table["threat"].tolist() == ["pgd l2 0.5 20 steps", "pgd linf 0.5 20 steps"]
    assert found.table["trainings"].tolist() == [2, 2]


def test_a_recipe_that_was_trained_once_has_a_mean_and_no_test() -> None:
    rows = [record("net-seed0", 120), record("net-seed1", 110), record("single", 100)]
    _, single = compare_trainings([source(*rows)]).table.to_dict("records")
    assert (single["recipe"], single["trainings"], single["mean"]) == ("single", 1, 0.5)
    assert single["difference"] == pytest.approx(-0.075, rel=1e-12)  # rounding
    assert all(math.isnan(single[column]) for column in ("deviation", "low", "high", "p"))


def test_the_reference_of_trainings_is_a_recipe() -> None:
    rows = [record(f"{recipe}-seed{seed}", 100 + seed) for recipe in ("net", "bcos") for seed in (0, 1)]
    found = compare_trainings([source(*rows)], reference="bcos")
    assert found.notes[0].startswith("Differences are to bcos;")
    assert found.table["p"].isna().tolist() == [False, True]
    with pytest.raises(RequestError, match="unknown recipe 'bcos-seed0': did you mean 'bcos'"):
        compare_trainings([source(*rows)], reference="bcos-seed0")


@pytest.mark.parametrize(
    "name", ["net{}", "net-seed{}-large", "net-seedling{}", "net-fold{}x", "seed{}", "net-seed-{}"]
)
def test_models_that_were_trained_once_are_refused(name: str) -> None:
    rows = [record(name.format(0), 100), record(name.format(1), 110), record("other-seed3", 90)]
    with pytest.raises(RequestError, match=r"no model was trained more than once .* --seeds 0\.\.4$"):
        compare_trainings([source(*rows)])


@pytest.mark.parametrize("column", [column for column in VARIANT if column != "dataset"])
def test_what_differs_in_the_attack_is_not_another_training(column: str) -> None:
    rows = [record("net", 120), record("net", 90, **{column: OTHER[column]})]
    with pytest.raises(RequestError, match="no model was trained more than once"):
        compare_trainings([source(*rows)])


def test_one_training_in_two_sources_is_not_two_trainings() -> None:
    with pytest.raises(RequestError, match="no model was trained more than once"):
        compare_trainings([source(record("net-seed0", 120)), source(record("net-seed0", 90), name="b.csv")])


def test_two_losses_of_two_trainings_are_two_means() -> None:
    rows = [record(f"net-seed{seed}", 100, loss=loss) for seed in (0, 1) for loss in ("ce", "dlr")]
    found = compare_trainings([source(*rows)])
    assert found.table["recipe"].tolist() == ["net loss ce", "net loss dlr"]
    assert found.table["trainings"].tolist() == [2, 2]


@pytest.mark.parametrize("column", APART)
def test_trainings_that_are_not_comparable_are_not_tested_and_said_so(column: str) -> None:
    rows = [record(f"net-seed{seed}", 100 + seed) for seed in (0, 1)]
    rows += [record(f"bcos-seed{seed}", 90 + seed, **{column: OTHER[column]}) for seed in (0, 1)]
    found = compare_trainings([source(*rows)])
    assert found.table[["difference", "p"]].isna().all(axis=None)
    assert any(note.startswith(f"Not comparable: {column} differs") for note in found.notes)


@pytest.mark.parametrize(("counts", "p"), [((100, 100), 1), ((90, 90), 0)])
def test_trainings_that_do_not_vary_are_compared_without_a_warning(counts: tuple[int, int], p: float) -> None:
    rows = [record(f"net-seed{seed}", 100) for seed in range(3)]
    rows += [record(f"bcos-seed{seed}", count) for seed, count in enumerate(counts)]
    assert compare_trainings([source(*rows)]).table["p"].tolist()[1] == p


def test_one_recipe_that_does_not_vary_is_compared_without_a_warning() -> None:
    rows = [record(f"net-seed{seed}", 100) for seed in range(3)]
    rows += [record(f"bcos-seed{seed}", 101 + 3 * seed) for seed in range(3)]
    # A variance of 0 on one side: the t-test of one sample against the other's mean.
    expected = stats.ttest_1samp(np.array([101, 104, 107]) / TOTAL, 0.5).pvalue
    assert compare_trainings([source(*rows)]).table["p"].tolist()[1] == pytest.approx(expected, rel=1e-6)  # rounding


def test_a_training_is_a_point_with_its_recipe_and_threat() -> None:
    rows = [record("net-seed0", 120), record("net-seed1", 90, worst_correct=80), record("single", 50)]
    found = trainings([source(*rows)], "model != 'single'")
    assert found[["threat", "recipe", "accuracy"]].to_numpy().tolist() == [[THREAT, "net", 0.6], [THREAT, "net", 0.4]]


# Clean accuracies and explanations


def test_clean_accuracy_robust_accuracy_and_similarity_are_compared_by_default() -> None:
    rows = [
        explained(f"{name}-seed{seed}", 0.8 + seed / 10, norm=norm)
        for norm in ("l2", "linf")
        for seed in (0, 1)
        for name in ("net", "bcos")
    ]
    found = compare_all([source(*rows)]).table
    assert found["measure"].tolist() == [CLEAN] * 2 + [ROBUST] * 4 + [SIMILARITY] * 4
    threats = ["pgd l2 0.5 20 steps"] * 2 + ["pgd linf 0.5 20 steps"] * 2
    assert found["threat"].tolist() == ["no attack"] * 2 + threats * 2
    assert found["recipe"].tolist() == ["net", "bcos"] * 5
    assert set(found["trainings"]) == {2}
    assert found["mean"].tolist() == pytest.approx([0.95] * 2 + [0.5] * 4 + [0.85] * 4, rel=1e-12)  # rounding


def test_a_run_that_explains_nothing_has_no_similarities() -> None:
    rows = [record(f"net-seed{seed}", 100 + seed) for seed in (0, 1)]
    assert compare_all([source(*rows)]).table["measure"].tolist() == [CLEAN, ROBUST]


def test_a_clean_accuracy_counts_once_for_each_training_however_many_attacks_there_were() -> None:
    rows = [
        record(f"{name}-seed{seed}", 90, clean=clean + seed, eps=eps, epsilon=float(eps))
        for eps in ("0.25", "0.5", "1")
        for name, clean in (("net", 180), ("bcos", 170))
        for seed in range(3)
    ]
    found = compare_trainings([source(*rows)], measures=[CLEAN])
    net, bcos = found.table.to_dict("records")
    assert (net["trainings"], bcos["trainings"]) == (3, 3)
    assert (net["mean"], bcos["mean"]) == pytest.approx((181 / TOTAL, 171 / TOTAL), rel=1e-12)
    values = np.arange(3) / TOTAL
    assert bcos["p"] == pytest.approx(stats.ttest_ind(values + 170 / TOTAL, values + 180 / TOTAL).pvalue, rel=1e-9)


def test_p_is_corrected_over_all_measures_of_the_table() -> None:
    rows = [
        record(f"{name}-seed{seed}", robust + 3 * seed, clean=clean + seed)
        for name, robust, clean in (("net", 100, 180), ("bcos", 130, 179), ("wide", 110, 190))
        for seed in range(3)
    ]
    alone = [compare_trainings([source(*rows)], measures=[measure]).table for measure in (CLEAN, ROBUST)]
    spread = {CLEAN: np.arange(3) / TOTAL, ROBUST: 3 * np.arange(3) / TOTAL}
    shifts = {CLEAN: (-1 / TOTAL, 10 / TOTAL), ROBUST: (30 / TOTAL, 10 / TOTAL)}
    ps = [
        float(stats.ttest_ind(spread[measure] + shift, spread[measure], equal_var=False).pvalue)
        for measure in (CLEAN, ROBUST)
        for shift in shifts[measure]
    ]
    both = compare_trainings([source(*rows)], measures=[CLEAN, ROBUST])
    assert both.table["p"].dropna().tolist() == pytest.approx(holm(ps), rel=1e-6)  # rounding of differences
    assert "Holm over 4 rows" in both.notes[0]
    assert [table["p"].dropna().tolist() for table in alone] == [
        pytest.approx(holm(ps[:2]), rel=1e-6),
        pytest.approx(holm(ps[2:]), rel=1e-6),
    ]


def test_similarities_by_different_methods_are_not_compared_and_said_so() -> None:
    rows = [explained(f"bcos-seed{seed}", 0.9 + seed / 100) for seed in range(2)]
    rows += [explained(f"rgb-seed{seed}", 0.7 + seed / 100) for seed in range(2)]
    rows += [explained(f"net-seed{seed}", 0.8, explanation="input_x_gradient") for seed in range(2)]
    found = compare_all([source(*rows)])
    kept = found.table[found.table["measure"] == SIMILARITY]
    assert kept["p"].notna().tolist() == [False, True, False]
    assert kept["difference"].tolist()[1] == pytest.approx(-0.2, rel=1e-9)
    assert found.table[found.table["measure"] == ROBUST]["p"].notna().tolist() == [False, True, True]
    assert found.notes[-1] == "explanation differs (dynamic_weights: bcos, rgb; input_x_gradient: net)."
    assert not any("explanation" in note for note in compare_trainings([source(*rows)]).notes)


def test_a_similarity_that_was_not_measured_is_no_training() -> None:
    rows = [explained(f"net-seed{seed}", 0.9 if seed else None) for seed in range(3)]
    (line,) = compare_trainings([source(*rows)], measures=[SIMILARITY]).table.to_dict("records")
    assert (line["trainings"], line["mean"]) == (2, 0.9)


def test_what_differs_is_told_by_recipe_and_not_by_training() -> None:
    rows = [
        record(f"{name}-seed{seed}", 90, loss=loss) for name, loss in (("a", "ce"), ("b", "bce")) for seed in (0, 1)
    ]
    assert compare_trainings([source(*rows)]).notes[-1] == "loss differs (ce: a; bce: b)."


@pytest.mark.parametrize("measure", ["clean", "mean_perturbation", "explanation_cosine_true_noise", "model"])
def test_a_measure_that_was_not_taken_is_refused(measure: str) -> None:
    rows = [explained(f"net-seed{seed}", 0.9) for seed in range(2)]
    with pytest.raises(RequestError, match=f"^unknown measure '{measure}': .*choose from clean_accuracy, "):
        compare_all([source(*rows)], measures=[measure])


def test_any_column_about_explanations_can_be_compared() -> None:
    rows = [explained(f"net-seed{seed}", 0.9, explanation_centre_true_attack=1.5 + seed) for seed in range(2)]
    found = compare_all([source(*rows)], measures=["explanation_centre_true_attack", "robust_accuracy"])
    assert found.table["measure"].tolist() == ["explanation_centre_true_attack", "robust_accuracy"]
    assert found.table["mean"].tolist() == [2.0, 0.5]


@pytest.mark.parametrize("measure", MEASURES)
def test_values_are_those_of_the_rows(measure: str) -> None:
    rows = [
        explained(f"net-seed{seed}", 0.9 + seed / 100, clean=170 + seed, worst_correct=80 + seed) for seed in (0, 1)
    ]
    values = measured(trainings([source(*rows)]), measure)["value"]
    expected = {CLEAN: [0.85, 0.855], ROBUST: [0.4, 0.405], SIMILARITY: [0.9, 0.91]}
    assert values.tolist() == pytest.approx(expected[measure], rel=1e-12)
    assert isinstance(values, pd.Series)
    assert not values.isna().any()
