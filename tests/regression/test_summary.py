"""Means of forecasters over trainings, and their tests, against SciPy's test and Holm's correction by statsmodels."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_ind
from statsmodels.stats.multitest import multipletests

from robustbench_bcos.regression.study import summary_of

BY_THREAT = ("robust_accuracy", "robust_accuracy_worst", "attacked_relative_error")
BY_TRAINING = ("mse", "relative_error", "r2", "valid_time", "clean_accuracy")
SPACES = ("initial", "parameters")
FAMILIES = {"bcos-field": "bcos", "bcos-field-b2": "bcos", "conventional-field": "conventional"}


def results() -> pd.DataFrame:
    """Three trainings of each, under two threats; what is not attacked is the same under both."""
    random = np.random.default_rng(0)
    rows = [
        {
            **dict.fromkeys(["dataset", "norm", "eps", "fold"], ""),
            **{"variation": variation, "family": family, "architecture": "field", "trust": "sound"},
            **dict(zip(BY_TRAINING, random.random(len(BY_TRAINING)), strict=True)),
        }
        for variation, family in FAMILIES.items()
        for _ in range(3)
    ]
    attacked = [
        dict(zip(BY_THREAT, numbers, strict=True)) for numbers in random.random((2 * len(rows), len(BY_THREAT)))
    ]
    both = [{**row, "space": space} for space in SPACES for row in rows]
    return pd.DataFrame([{**row, **more} for row, more in zip(both, attacked, strict=True)])


@pytest.mark.parametrize("measure", [*BY_TRAINING, *BY_THREAT])
def test_p_of_a_measure_counts_each_of_its_tests_once(measure: str) -> None:
    table = results()
    summary = summary_of(table).set_index(["space", "variation"])[f"p_{measure}"]
    tested = [(space, variation) for space in SPACES for variation in list(FAMILIES)[:2]]

    def values(space: str, variation: str) -> pd.Series:
        return table[(table["space"] == space) & (table["variation"] == variation)][measure]

    once = tested if measure in BY_THREAT else tested[:2]
    ps = [ttest_ind(values(*one), values(one[0], "conventional-field"), equal_var=False).pvalue for one in once]
    expected = multipletests(ps, method="holm")[1]
    assert [summary[one] for one in tested] == pytest.approx([*expected] * (4 // len(once)), rel=1e-9)
    assert summary[[(space, "conventional-field") for space in SPACES]].isna().all()
