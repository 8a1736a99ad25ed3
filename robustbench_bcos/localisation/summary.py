"""What is written of the scores of a game: one row per model, method, condition and measure."""

from collections.abc import Sequence
from dataclasses import asdict, fields
from itertools import groupby
from typing import Literal

import numpy as np
import pandas as pd

from robustbench_bcos.core.rounding import rounded, significant
from robustbench_bcos.core.statistics import bootstrap
from robustbench_bcos.core.version import VERSION
from robustbench_bcos.localisation.rows import ComparisonRow, LocalisationRow, ScoreRow
from robustbench_bcos.localisation.setting import Play
from robustbench_bcos.model_zoo.bcos.layers import b_of

DIGITS = 4
"""Significant digits of means."""


def summarise_scores(play: Play, rows: Sequence[ScoreRow]) -> list[LocalisationRow]:
    """One row for all scores that differ in the picture and its regions alone; models in the order they were named."""

    def key(row: ScoreRow) -> tuple[str, str, str, str, str]:
        return row.model, row.method, row.threat, row.condition, row.measure

    found = {parts: list(same) for parts, same in groupby(sorted(rows, key=key), key=key)}
    order = list(play.setting.names)
    conditions: list[str] = list(play.setting.config.conditions)
    measures, controls = list(play.game.measures), play.game.controls
    ordered = sorted(
        found,
        key=lambda parts: (
            order.index(parts[0]),
            parts[1] in controls,
            parts[1],
            measures.index(parts[4]),
            parts[2],
            conditions.index(parts[3]),
        ),
    )
    return [_row(play, found[parts]) for parts in ordered]


def by_picture(rows: Sequence[ScoreRow], column: Literal["score", "floor", "ceiling"] = "score") -> dict[int, float]:
    """Mean score of each picture that has one: its regions share a picture, and are no independent observations.

    Args:
        rows: of one model, method, condition and measure.
        column: the score, or what it is compared with.
    """
    scores: dict[int, list[float]] = {}
    for row in rows:
        value = getattr(row, column)
        # Limits are those of the regions that have a score.
        if value is not None and row.score is not None:
            scores.setdefault(row.scene, []).append(value)
    return {scene: float(np.mean(values)) for scene, values in sorted(scores.items())}


def _row(play: Play, rows: Sequence[ScoreRow]) -> LocalisationRow:
    first, config = rows[0], play.setting.config
    model = play.setting.model(first.model)
    means = list(by_picture(rows).values())
    scores = [row.score for row in rows if row.score is not None]
    interval = bootstrap(means, seed=config.seed) if means else (None, None)
    quartiles = np.quantile(scores, [0.25, 0.5, 0.75]) if scores else [None] * 3
    norm, _, eps = first.threat.partition(" ")
    scene = play.scenes[first.model].make(first.scene)
    return LocalisationRow(
        model=first.model,
        family=model.family,
        b=b_of(model.classifier),
        training=model.training,
        method=first.method,
        control=first.method in play.game.controls,
        game=play.game.name,
        protocol=play.game.protocol_name,
        measure=first.measure,
        condition=first.condition,
        norm=norm,
        eps=eps,
        budget=config.budget if first.threat else "",
        mean=_mean(means),
        ci_low=_number(interval[0]),
        ci_high=_number(interval[1]),
        median=_number(quartiles[1]),
        quartile_low=_number(quartiles[0]),
        quartile_high=_number(quartiles[2]),
        floor=_mean(list(by_picture(rows, "floor").values())),
        ceiling=_mean(list(by_picture(rows, "ceiling").values())),
        pictures=len({row.scene for row in rows}),
        regions=len(rows),
        empty=sum(row.outcome == "empty" for row in rows),
        not_finite=sum(row.outcome == "not_finite" for row in rows),
        kept=sum(row.kept for row in rows),
        lost=sum(not row.kept for row in rows),
        mean_kept=_mean([row.score for row in rows if row.kept and row.score is not None]),
        mean_lost=_mean([row.score for row in rows if not row.kept and row.score is not None]),
        mean_size=rounded(float(np.mean([row.size for row in rows])), DIGITS),
        kernel=play.game.kernel(scene),
        own_grids=config.own_grids,
        dataset=play.setting.subset.dataset.name,
        subset=play.setting.subset.digest[:12],
        seed=config.seed,
        version=VERSION,
    )


def as_table(kind: type, rows: Sequence[LocalisationRow | ScoreRow | ComparisonRow]) -> pd.DataFrame:
    """Rows of a kind as a table, whose columns are their fields."""
    return pd.DataFrame([asdict(row) for row in rows], columns=[column.name for column in fields(kind)])


def _mean(values: Sequence[float]) -> float | None:
    return _number(float(np.mean(values))) if values else None


def _number(value: float | None) -> float | None:
    return None if value is None else significant(value, DIGITS)
