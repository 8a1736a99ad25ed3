"""Paired differences between conditions, methods and models, picture by picture."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import combinations, groupby
from statistics import fmean

from robustbench_bcos.core.rounding import rounded
from robustbench_bcos.core.statistics import bootstrap, holm, sign_flip
from robustbench_bcos.explanations.explanation import method_for
from robustbench_bcos.localisation.rows import ComparisonRow, ScoreRow
from robustbench_bcos.localisation.setting import Play
from robustbench_bcos.localisation.summary import DIGITS

PAIRS_OF_CONDITIONS = (("clean", "attack"), ("clean", "noise"), ("noise", "attack"))
"""First and second; the last is what the attack did beyond noise of its size."""


@dataclass(frozen=True, order=True, kw_only=True)
class Contender:
    """What is compared."""

    model: str
    method: str
    threat: str
    condition: str
    measure: str

    @property
    def name(self) -> str:
        """As the file has it."""
        return f"{self.model} {self.method} {self.condition}"


def compare_scores(play: Play, rows: Sequence[ScoreRow]) -> list[ComparisonRow]:
    """All differences that are defined, with p corrected by Holm for their number."""
    scores = {
        contender: {(row.scene, row.target): row.score for row in same if row.score is not None}
        for contender, same in groupby(sorted(rows, key=_contender), key=_contender)
    }
    found: list[ComparisonRow] = []
    for between, pairs in (
        ("conditions", _conditions(scores)),
        ("methods", _methods(play, scores)),
        ("models", () if play.setting.config.own_grids else _models(play, scores)),
    ):
        compared = [
            row
            for first, second in pairs
            if (row := _compared(between, first, second, scores, play.setting.config.seed))
        ]
        corrected = holm([row.p for row in compared])
        found += [replace(row, p_holm=rounded(p, DIGITS)) for row, p in zip(compared, corrected, strict=True)]
    return found


def _contender(row: ScoreRow) -> Contender:
    names = (field.name for field in fields(Contender))
    return Contender(**{name: getattr(row, name) for name in names})


Pairs = Iterator[tuple[Contender, Contender]]

Scores = Mapping[Contender, Mapping[tuple[int, int], float]]
"""By picture and target; those that are not defined are left out."""


def _conditions(scores: Scores) -> Pairs:
    for contender in scores:
        for before, after in PAIRS_OF_CONDITIONS:
            if contender.condition == after:
                first = replace(contender, condition=before, threat="" if before == "clean" else contender.threat)
                if first in scores:
                    yield first, contender


def _methods(play: Play, scores: Scores) -> Pairs:
    controls = set(play.game.controls)
    for first, second in combinations(scores, 2):
        if controls.issuperset((first.method, second.method)):
            continue
        if first.method != second.method and replace(first, method=second.method) == second:
            yield first, second


def _models(play: Play, scores: Scores) -> Pairs:
    own = {name: method_for(play.setting.model(name).classifier) for name in play.setting.names}
    for first, second in combinations(scores, 2):
        if first.method in play.game.controls:
            # They are the same for all models.
            continue
        alike = replace(first, model=second.model, method=second.method) == second
        same_method = first.method == second.method
        each_its_own = first.method == own[first.model] and second.method == own[second.model]
        if alike and first.model != second.model and (same_method or each_its_own):
            yield first, second


def _compared(between: str, first: Contender, second: Contender, scores: Scores, seed: int) -> ComparisonRow | None:
    """The row of a pair, where there is a region on which both have a score."""
    before, after = scores[first], scores[second]
    differences: dict[int, list[float]] = {}
    for scene, target in sorted(before.keys() & after.keys()):
        differences.setdefault(scene, []).append(after[scene, target] - before[scene, target])
    if not differences:
        return None
    # Regions of a picture are explained together, and are no independent observations.
    means = [fmean(values) for values in differences.values()]
    low, high = bootstrap(means, seed=seed)
    norm, _, eps = second.threat.partition(" ")
    p = rounded(sign_flip(means, seed=seed), DIGITS)
    return ComparisonRow(
        between=between,
        measure=second.measure,
        first=first.name,
        second=second.name,
        norm=norm,
        eps=eps,
        difference=rounded(fmean(means), DIGITS),
        ci_low=rounded(low, DIGITS),
        ci_high=rounded(high, DIGITS),
        pictures=len(means),
        p=p,
        p_holm=p,
    )
