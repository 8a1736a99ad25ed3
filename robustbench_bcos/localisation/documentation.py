"""The columns of the files of ``localise``, for docs/localisation.md."""

from robustbench_bcos.bench.documentation import columns_of
from robustbench_bcos.localisation.rows import ComparisonRow, LocalisationRow, ScoreRow


def tables() -> dict[str, str]:
    """By the name that the page has for each."""
    return {
        "localisation": columns_of(LocalisationRow),
        "cells": columns_of(ScoreRow),
        "comparisons": columns_of(ComparisonRow),
    }
