"""The gate's decisions, on results made by hand."""

import math
from fractions import Fraction
from typing import Any

import pytest
from torch import Tensor

from robustbench_bcos.bench.records import SIMILARITY_COLUMNS
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.explanations.similarity import MEASURES, Distance
from robustbench_bcos.reports.gate import TRUST, GateReport, Tolerance, check, higher_is_better
from robustbench_bcos.reports.marks import legend
from tests.reports.handmade import TOTAL, record, results_of

COSINE = "explanation_cosine_true_attack"
MASS = "explanation_mass_true_attack"


def counted(robust: int, images: int, model: str = "a") -> dict[str, Any]:
    """A row of so many images, all right when clean."""
    counts = {"images": images, "clean_correct": images, "robust_correct": robust, "worst_correct": robust}
    return record(model, 0) | counts


def hold(now: int, before: int, *, images: int = TOTAL, **options: Any) -> GateReport:
    """The gate on one row whose count has changed."""
    new, old = (counted(count, images) for count in (now, before))
    return check(results_of(new), results_of(old), **options)


def status(report: GateReport) -> str:
    (row,) = report.rows
    assert report.passed is (row.status in ("held", "improved"))
    return row.status


def tolerances(*texts: str) -> list[Tolerance]:
    return [Tolerance.parse(text) for text in texts]


def surviving(lost: int, won: int, *, both: int = 60, neither: int = 17) -> tuple[dict[str, Any], ...]:
    """Two runs on the same images: so many lost, so many won, so many unmoved."""
    before = "1" * lost + "0" * won + "1" * both + "0" * neither
    after = "0" * lost + "1" * won + "1" * both + "0" * neither
    return tuple({"bits": bits, "row": counted(bits.count("1"), len(bits))} for bits in (after, before))


def hold_images(lost: int, won: int, *, paired: bool = True, **options: Any) -> GateReport:
    now, before = surviving(lost, won)
    known = [{0: side["bits"]} if paired else {} for side in (now, before)]
    return check(results_of(now["row"], survivors=known[0]), results_of(before["row"], survivors=known[1]), **options)


# What regressed


@pytest.mark.parametrize(
    ("now", "before", "expected"),
    [
        (500, 500, "held"),
        (499, 500, "held"),
        (501, 500, "held"),
        (495, 500, "held"),
        (494, 500, "regressed"),
        (480, 500, "regressed"),
        (505, 500, "held"),
        (506, 500, "improved"),
        (0, 1000, "regressed"),
        (1000, 0, "improved"),
    ],
)
def test_half_a_point_of_a_thousand_images_is_five_of_them(now: int, before: int, expected: str) -> None:
    report = hold(now, before, images=1000)
    assert status(report) == expected
    (row,) = report.rows
    assert (row.before, row.after, row.change, row.images) == (before, now, now - before, 1000)
    assert row.p is None


@pytest.mark.parametrize("images", [100, 200, 364, 500, 700, 1000, 1797, 10_000])
@pytest.mark.parametrize("points", ["0.1", "0.5", "0.7", "1", "2", "3.3"])
def test_the_boundary_is_exact_however_the_share_is_rounded(points: str, images: int) -> None:
    allowed = math.floor(Fraction(points) * images / 100)
    half = images // 2
    for lost, expected in ((allowed, "held"), (allowed + 1, "regressed")):
        assert status(hold(half - lost, half, images=images, tolerances=tolerances(f"{points}points"))) == expected


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["0flips"], "regressed"),
        (["2flips"], "regressed"),
        (["3flips"], "held"),
        (["1.4points"], "regressed"),
        (["1.5points"], "held"),
        (["3flips", "a=2flips"], "regressed"),
        (["2flips", "a=3flips"], "held"),
        (["a=3flips", "2flips"], "regressed"),
        (["3flips", "b=0flips"], "held"),
        (["0flips", "[ab]=3flips"], "held"),
        (["A=100points"], "regressed"),
    ],
)
def test_the_last_tolerance_that_names_the_model_counts(texts: list[str], expected: str) -> None:
    assert status(hold(97, 100, tolerances=tolerances(*texts))) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2flips", Tolerance("*", 2.0, "flips")),
        ("1flip", Tolerance("*", 1.0, "flips")),
        (" 0.5 points ", Tolerance("*", 0.5, "points")),
        ("digits-*=1point", Tolerance("digits-*", 1.0, "points")),
        ("a=b=3flips", Tolerance("a=b", 3.0, "flips")),
    ],
)
def test_a_tolerance_is_a_number_and_its_unit(text: str, expected: Tolerance) -> None:
    assert Tolerance.parse(text) == expected


@pytest.mark.parametrize(
    "text", ["2", "flips", "-1flips", "2%", "nanpoints", "1e3flips", "=1flips", "a=", "", "1.flips"]
)
def test_a_tolerance_that_is_none_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(RequestError, match=r"must be like 2flips, 0\.5points"):
        Tolerance.parse(text)


# Columns and their directions


@pytest.mark.parametrize(
    ("column", "count"),
    [
        ("robust_accuracy_worst", "worst_correct"),
        ("robust_accuracy", "robust_correct"),
        ("clean_accuracy", "clean_correct"),
    ],
)
def test_each_accuracy_is_gated_by_its_own_count(column: str, count: str) -> None:
    before = record("a", 150)
    now = before | {count: before[count] - 50}
    for gated in ("robust_accuracy_worst", "robust_accuracy", "clean_accuracy"):
        report = check(results_of(now), results_of(before), columns=[gated])
        assert status(report) == ("regressed" if gated == column else "held")


@pytest.mark.parametrize("column", [*SIMILARITY_COLUMNS, "explanation_changed_attack", "explanation_changed_noise"])
def test_each_measure_has_a_direction(column: str) -> None:
    distance = any(f"_{measure}_" in column for measure in ("mass", "centre", "changed"))
    assert higher_is_better(column) is not distance
    low, high = (results_of(record("a", 150, **{column: value})) for value in (0.25, 0.75))
    rising, falling = (check(*pair, columns=[column]) for pair in ((high, low), (low, high)))
    assert (status(rising), status(falling)) == (("regressed", "improved") if distance else ("improved", "regressed"))
    assert [report.rows[0].change for report in (rising, falling)] == [0.5, -0.5]
    assert rising.rows[0].images is None


@pytest.mark.parametrize("distance", [True, False])
def test_a_measure_of_ones_own_has_the_direction_that_it_is_declared_with(
    distance: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drift(first: Tensor, second: Tensor) -> Tensor:
        return (first - second).flatten(1).norm(dim=1)

    monkeypatch.setitem(MEASURES._entries, "drift", Distance(drift) if distance else drift)
    assert higher_is_better("explanation_drift_true_attack") is not distance


@pytest.mark.parametrize(
    ("now", "expected"), [(0.895, "held"), (0.8949, "regressed"), (0.905, "held"), (0.91, "improved")]
)
def test_a_point_of_a_measure_is_a_hundredth(now: float, expected: str) -> None:
    before = results_of(record("a", 150, **{COSINE: 0.9}))
    assert status(check(results_of(record("a", 150, **{COSINE: now})), before, columns=[COSINE])) == expected


@pytest.mark.parametrize("column", [COSINE, MASS])
def test_a_measure_that_vanished_regressed_and_one_that_came_did_not(column: str) -> None:
    # The second row keeps the column from being empty.
    full, empty = (
        results_of(record("a", 150, **{column: value}), record("b", 150, **{column: 0.5})) for value in (0.5, None)
    )
    lost, gained = check(empty, full, columns=[column]), check(full, empty, columns=[column])
    assert [(row.model, row.status, row.note) for row in lost.rows] == [
        ("a", "regressed", "no value"),
        ("b", "held", ""),
    ]
    assert {row.status for row in gained.rows} == {"held"}
    assert {row.status for row in check(empty, empty, columns=[column]).rows} == {"held"}


def test_columns_are_gated_side_by_side() -> None:
    before = results_of(record("a", 150, **{COSINE: 0.9}), record("b", 150, **{COSINE: 0.9}))
    now = results_of(record("a", 100, **{COSINE: 0.9}), record("b", 150, **{COSINE: 0.2}))
    report = check(now, before, columns=["robust_accuracy_worst", COSINE])
    assert len(report.rows) == 4
    assert {(row.model, row.column) for row in report.rows if row.failed} == {
        ("a", "robust_accuracy_worst"),
        ("b", COSINE),
    }


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ("robust_acuracy", "did you mean 'robust_accuracy'"),
        ("images", "unknown column to gate 'images'"),
        ("explanation", "unknown column to gate 'explanation'"),
        (COSINE, "has no values of explanation_cosine_true_attack: repeat its run without --no-figures"),
    ],
)
def test_columns_that_cannot_be_gated_are_refused(column: str, said: str) -> None:
    with pytest.raises(RequestError) as caught:
        hold(150, 150, columns=[column])
    assert said in str(caught.value)


def test_the_side_without_explanations_is_named() -> None:
    explained, bare = results_of(record("a", 150, **{COSINE: 0.9})), results_of(record("a", 150), name="old.csv")
    with pytest.raises(RequestError, match=r"^old\.csv has no values"):
        check(explained, bare, columns=[COSINE])


def test_explanations_by_another_method_cannot_be_compared() -> None:
    now, before = (
        results_of(record("a", 150, explanation=method, **{COSINE: 0.9})) for method in ("gradcam", "deeplift")
    )
    assert check(now, before).passed
    with pytest.raises(RequestError, match="explanation gradcam and deeplift"):
        check(now, before, columns=[COSINE])


# Improvements


@pytest.mark.parametrize(("now", "expected"), [(150, "held"), (151, "held"), (152, "regressed"), (148, "regressed")])
def test_both_ways_an_improvement_closes_the_gate(now: int, expected: str) -> None:
    assert status(hold(now, 150, both_ways=True)) == expected


# Statistics


@pytest.mark.parametrize(("lost", "won"), [(5, 0), (4, 0), (9, 1), (12, 4), (3, 3), (0, 6), (0, 0)])
def test_known_images_are_tested_in_pairs(lost: int, won: int) -> None:
    report = hold_images(lost, won, alpha=0.05)
    moved = lost + won
    p = float(Fraction(sum(math.comb(moved, k) for k in range(lost, moved + 1)), 2**moved))
    assert report.rows[0].p == pytest.approx(p, rel=1e-12)
    assert status(report) == ("regressed" if p < 0.05 else "improved" if won > lost else "held")


def test_unknown_images_are_tested_as_counts() -> None:
    lost = 12
    paired, counted = (hold_images(lost, 0, paired=paired, alpha=0.05) for paired in (True, False))
    # 60 of 89 against 72 of 89, all margins held.
    ways = sum(math.comb(89, k) * math.comb(89, 132 - k) for k in range(43, 61))
    assert counted.rows[0].p == pytest.approx(ways / math.comb(178, 132), rel=1e-9)
    assert paired.rows[0].p == pytest.approx(2.0**-lost)


def test_two_points_of_a_thousand_images_are_no_noise_and_one_image_is() -> None:
    def report(lost: int, won: int, **options: Any) -> GateReport:
        now, before = surviving(lost, won, both=700, neither=300 - lost - won)
        assert len(now["bits"]) == 1000
        sides = [results_of(side["row"], survivors={0: side["bits"]}) for side in (now, before)]
        return check(*sides, **options)

    for options in ({}, {"alpha": 0.05}):
        assert not report(20, 0, **options).passed
        assert not report(25, 5, **options).passed
        assert report(1, 0, **options).passed
        assert report(4, 3, **options).passed
        assert report(0, 20, **options).passed


def test_the_level_holds_over_all_rows() -> None:
    """Ten rows with p = 1/64 each: alone any would fail, together none is significant."""
    models = "abcdefghij"
    rows, survivors = {}, {}
    for place, lost in ((0, "0" * 6), (1, "1" * 6)):
        bits = lost + "1" * 10
        rows[place] = [counted(bits.count("1"), 16, model) for model in models]
        survivors[place] = dict.fromkeys(range(10), bits)
    sides = [results_of(*rows[side], survivors=survivors[side]) for side in (0, 1)]
    report = check(*sides, alpha=0.05)
    assert report.passed
    assert [row.p for row in report.rows] == pytest.approx([10 / 64] * 10)
    alone = [results_of(rows[side][0], survivors={0: survivors[side][0]}) for side in (0, 1)]
    assert not check(*alone, alpha=0.05).passed
    assert not check(*sides, alpha=0.2).passed


def test_a_tolerance_holds_beside_the_test() -> None:
    assert not hold_images(6, 0, alpha=0.05).passed
    assert not hold_images(6, 0, alpha=0.05, tolerances=tolerances("5flips")).passed
    assert hold_images(6, 0, alpha=0.05, tolerances=tolerances("6flips")).passed


@pytest.mark.parametrize("column", ["robust_accuracy", "clean_accuracy"])
def test_survivors_of_everything_say_nothing_of_other_counts(column: str) -> None:
    now, before = surviving(10, 0)
    for side in (now, before):
        side["row"] |= {
            "robust_correct": side["row"]["worst_correct"] + 1,
            "clean_correct": side["row"]["worst_correct"],
        }
    sides = [results_of(side["row"], survivors={0: side["bits"]}) for side in (now, before)]
    unpaired = [results_of(side["row"]) for side in (now, before)]
    paired = check(*sides, columns=["robust_accuracy_worst"], alpha=0.05).rows[0].p
    counted = check(*sides, columns=[column], alpha=0.05).rows[0].p
    assert counted == check(*unpaired, columns=[column], alpha=0.05).rows[0].p
    assert counted != paired == pytest.approx(2.0**-10)


def test_measures_keep_their_tolerance_beside_a_level() -> None:
    """No test is made of them, so that a level alone must not forbid the last digit to change."""
    before, now = (results_of(record("a", 150, **{COSINE: value})) for value in (0.9, 0.8999))
    report = check(now, before, columns=["robust_accuracy_worst", COSINE], alpha=0.05)
    assert report.passed
    fallen = results_of(record("a", 150, **{COSINE: 0.5}))
    assert not check(fallen, before, columns=[COSINE], alpha=0.05).passed


def test_both_ways_at_a_level_noise_is_no_improvement() -> None:
    assert hold_images(0, 1, alpha=0.05, both_ways=True).passed
    assert hold_images(1, 0, alpha=0.05, both_ways=True).passed
    assert not hold_images(0, 20, alpha=0.05, both_ways=True).passed
    assert not hold_images(20, 0, alpha=0.05, both_ways=True).passed
    assert not hold_images(0, 20, alpha=0.05, both_ways=True, paired=False).passed


# Rows of one side


def test_missing_and_extra_rows_close_the_gate() -> None:
    before = results_of(record("a", 150), record("gone", 140))
    now = results_of(record("new", 130), record("a", 150))
    report = check(now, before)
    found = {row.model: (row.status, row.before, row.after, row.change, row.note) for row in report.rows}
    assert found == {
        "a": ("held", 150, 150, 0, ""),
        "gone": ("missing", 140, None, None, "not in this run"),
        "new": ("extra", None, 130, None, "not in the baseline"),
    }
    assert not report.passed
    assert report.summary == "gate closed: 1 missing, 1 extra, 1 held"


@pytest.mark.parametrize("change", [{"epsilon": 0.25, "eps": "0.25"}, {"steps": 40}, {"seed": 1}, {"space": "encoded"}])
def test_a_row_of_another_attack_is_another_row(change: dict[str, Any]) -> None:
    before = results_of(record("a", 150), record("b", 150))
    report = check(results_of(record("a", 150), record("b", 150, **change)), before)
    assert sorted(row.status for row in report.rows) == ["extra", "held", "missing"]


def test_the_order_of_rows_and_the_notation_of_epsilon_do_not_matter() -> None:
    counts = {"a": 150, "b": 120, "c": 90}
    before = results_of(*(record(model, count, eps="8/255", epsilon=8 / 255) for model, count in counts.items()))
    now = results_of(
        *(record(model, count, eps="0.0313725", epsilon=0.0313725) for model, count in reversed(counts.items()))
    )
    report = check(now, before)
    assert report.passed
    assert {row.model: row.after for row in report.rows} == counts
    assert all("0.0313725" in row.name for row in report.rows)


def test_survivors_belong_to_their_rows_in_any_order() -> None:
    now, before = surviving(6, 0)
    rows = [counted(45, 83, "b"), now["row"]]
    bits = "1" * 45 + "0" * 38
    report = check(
        results_of(*rows, survivors={0: bits, 1: now["bits"]}),
        results_of(before["row"], rows[0], survivors={0: before["bits"], 1: bits}),
        alpha=0.05,
    )
    assert {row.model: row.p for row in report.rows} == pytest.approx({"a": 2 / 64, "b": 1.0})


def test_runs_with_nothing_in_common_are_refused() -> None:
    with pytest.raises(RequestError, match=r"^now and old\.csv have no row in common"):
        check(results_of(record("a", 150)), results_of(record("b", 150), name="old.csv"))


@pytest.mark.parametrize(
    ("change", "said"),
    [({"subset": "ba9876543210"}, "subset ba9876543210 and 0123456789ab"), ({"images": 199}, "images 199 and 200")],
)
def test_other_images_are_refused(change: dict[str, Any], said: str) -> None:
    before = results_of(record("a", 150), record("b", 150))
    with pytest.raises(RequestError) as caught:
        check(results_of(record("a", 150), record("b", 150, **change)), before)
    message = str(caught.value)
    assert said in message
    assert "b pgd l2 0.5" in message
    assert "--update" in message


# How it is told


def test_what_moved_most_comes_first_of_what_failed_and_of_what_did_not() -> None:
    counts = {"held": (150, 150), "worse": (150, 100), "a little": (151, 150), "bad": (150, 140), "better": (100, 160)}
    before, now = (results_of(*(record(model, pair[side]) for model, pair in counts.items())) for side in (0, 1))
    assert [row.model for row in check(now, before).rows] == ["worse", "bad", "better", "a little", "held"]


def test_what_moved_most_comes_first_of_measures_of_either_direction() -> None:
    values = {"held": (0.5, 0.5), "bad": (0.5, 0.6), "worse": (0.5, 0.9), "vanished": (0.5, None), "none": (None, None)}
    before, now = (
        results_of(*(record(model, 150, **{MASS: pair[side]}) for model, pair in values.items())) for side in (0, 1)
    )
    report = check(now, before, columns=[MASS])
    assert [row.model for row in report.rows if row.failed] == ["vanished", "worse", "bad"]
    assert {row.model for row in report.rows if not row.failed} == {"held", "none"}


@pytest.mark.parametrize(
    ("column", "said"),
    [("weights_sha256", "Another weights than"), ("version", "Another version of robustbench_bcos than")],
)
def test_other_weights_and_another_version_are_noted_and_close_nothing(column: str, said: str) -> None:
    rows = [record(model, 150) for model in ("b", "a", "c")]
    other = [row if row["model"] == "c" else row | {column: "other"} for row in rows]
    report = check(results_of(*other), results_of(*rows))
    assert report.passed
    (note,) = report.notes
    assert note.startswith(said)
    assert note.endswith(": a, b.")
    assert check(results_of(*rows), results_of(*rows)).notes == ()


def test_a_row_is_named_by_what_is_unusual_about_it() -> None:
    rows = [
        record("a", 150),
        record("a", 150, loss="dlr", select="last", space="encoded", restarts=5, eps="8/255"),
        record("a", 150, attack="noise", steps=0, step_size=None, loss=""),
    ]
    report = check(results_of(*rows), results_of(*rows))
    assert sorted(row.name for row in report.rows) == [
        "a noise l2 0.5",
        "a pgd l2 0.5 20 steps ce",
        "a pgd l2 8/255 20 steps dlr last encoded 5 restarts",
    ]


def test_a_tolerance_may_be_for_one_row_of_a_model() -> None:
    before = [record("a", 150), record("a", 150, norm="linf")]
    after = [record("a", 147), record("a", 147, norm="linf")]
    report = check(results_of(*after), results_of(*before), tolerances=[Tolerance.parse("a pgd linf *=3flips")])
    assert [(row.name.split()[2], row.status) for row in report.rows] == [("l2", "regressed"), ("linf", "held")]


@pytest.mark.parametrize(
    ("before", "now", "closes"),
    [
        ("sound", "suspect", True),
        ("suspect", "suspect", False),
        ("unchecked", "suspect", False),
        ("sound", "sound", False),
    ],
)
def test_a_row_that_was_sound_and_is_suspect_closes_the_gate(before: str, now: str, closes: bool) -> None:
    sides = [results_of(record("a", 90, trust=trust, reasons="noise", evidence="quick")) for trust in (now, before)]
    report = check(*sides, tolerances=tolerances("200flips"))
    assert report.passed is not closes
    said = "a pgd l2 0.5 20 steps ce: sound before and suspect now: noise."
    assert (said in report.notes) is closes
    assert [row.column for row in report.rows if row.failed] == ["trust"] * closes


def test_numbers_that_were_checked_differently_are_refused_unless_the_attack_alone_is_gated() -> None:
    sides = [results_of(record("a", 90, evidence=evidence)) for evidence in ("quick", "off")]
    with pytest.raises(RequestError, match=r"evidence quick and off, .* --evidence off, .* --gate robust_accuracy"):
        check(*sides)
    assert check(*sides, columns=["robust_accuracy"]).passed


def test_a_baseline_from_before_there_was_evidence_had_none() -> None:
    assert check(results_of(record("a", 90, evidence="off")), results_of(record("a", 90, evidence=None))).passed


# Marks


def test_a_number_is_marked_by_the_trust_of_its_own_row_and_clean_ones_have_none() -> None:
    now = [record("a", 90, trust="suspect", reasons="noise"), record("b", 90, trust="unchecked"), record("c", 90)]
    report = check(
        results_of(*now), results_of(*(row | {"trust": "sound", "reasons": ""} for row in (now[1], now[0], now[2]))),
        columns=["robust_accuracy_worst", "clean_accuracy"], tolerances=tolerances("200flips"),
    )  # fmt: skip
    found = {(row.model, row.column): (row.trust_before, row.trust_after) for row in report.rows if row.column != TRUST}
    assert found == {
        **{(row["model"], "robust_accuracy_worst"): ("sound", row["trust"]) for row in now},
        **{(row["model"], "clean_accuracy"): ("", "") for row in now},
    }
    assert report.notes[:2] == tuple(legend(["suspect", "unchecked"]))
    assert report.notes[2].startswith("Suspect (?): a pgd l2 0.5 20 steps ce (noise);")


@pytest.mark.parametrize("alone", ["missing", "extra"])
def test_a_row_of_one_side_alone_keeps_its_mark(alone: str) -> None:
    both, other = record("a", 90), record("b", 90, trust="suspect")
    sides = [results_of(both, other), results_of(both)]
    (row,) = (row for row in check(*(sides if alone == "extra" else sides[::-1])).rows if row.model == "b")
    assert row.status == alone
    assert (row.trust_before, row.trust_after) == (("", "suspect") if alone == "extra" else ("suspect", ""))


# Attacks on explanations


def fooled(most: float, least: float, by: str = "dynamic_weights explanation:away") -> dict[str, Any]:
    moved = {"explanation_fooled_most": most, "explanation_withstood_least": least}
    return record("a", 10) | moved | {"attacked_maps": by}


@pytest.mark.parametrize(("column", "worse"), [("explanation_fooled_most", 0.3), ("explanation_withstood_least", 0.1)])
def test_explanations_that_are_easier_to_fool_close_the_gate(column: str, worse: float) -> None:
    before, now = fooled(0.2, 0.2), fooled(0.2, 0.2) | {column: worse}
    assert status(check(results_of(now), results_of(before), columns=[column])) == "regressed"
    assert status(check(results_of(before), results_of(now), columns=[column])) == "improved"


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (fooled(0.2, 0.2, "gradcam explanation:topk"), "had other explanations attacked .*--goal and --method"),
        (record("a", 10), "has no values of explanation_fooled_most: repeat its run with --goal explanation"),
    ],
)
def test_other_attacks_on_explanations_are_not_compared(other: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        check(results_of(other), results_of(fooled(0.2, 0.2)), columns=["explanation_fooled_most"])
