"""The judgement on a number, from stores filled by hand: every rule, at its boundary, and the worst case."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from robustbench_bcos.attacks.searches.autoattack import AutoAttack
from robustbench_bcos.attacks.threat import Threat
from robustbench_bcos.bench.cells import Cell, make_cells
from robustbench_bcos.bench.configured import make_config
from robustbench_bcos.bench.evidence import CHECKS
from robustbench_bcos.bench.evidence.check import (
    AbstractCellCheck,
    AbstractCheck,
    AbstractModelCheck,
    AbstractVerdictsCheck,
    checks_of,
)
from robustbench_bcos.bench.evidence.trust import UNFINISHED, Judgement, Outcome, Trust
from robustbench_bcos.bench.rows import ResultRow
from robustbench_bcos.bench.store import Store
from tests.bench.by_hand import clean_row, evidence_row, identity_of, model_row, verdict_row

VERDICTS = [check.name for check in checks_of("full", AbstractVerdictsCheck)]
OF_MODEL = [check.name for check in checks_of("full", AbstractModelCheck)]
OF_CELL = [check.name for check in checks_of("full", AbstractCellCheck)]
IMAGES = 400


def cells(**flags: Any) -> list[Cell]:
    return make_cells(make_config({"eps": ("0.5",), "norm": ("l2",), **flags}), ["net"])


(CELL,) = cells()


def attack(store: Store, cell: Cell = CELL, broken: Sequence[int] = (), images: int = IMAGES, **changed: Any) -> None:
    """Every image is classified correctly; some are broken; what is changed is so for the first image."""
    store.add(model_row(), *map(clean_row, range(images)))
    # Of the robust images, those of small numbers came nearest to success.
    rows = [
        verdict_row(cell, image, success=True, prediction=0, nearness=1.0)
        if image in broken
        else verdict_row(cell, image, nearness=float(-image))
        for image in range(images)
    ]
    store.add(replace(rows[0], **changed), *rows[1:])


def examine(store: Store, found: dict[str, Any] | None = None, cell: Cell = CELL, without: Sequence[str] = ()) -> None:
    """Every check was carried out; what some of them found, by image."""
    found = found or {}
    for name in [*OF_MODEL, *OF_CELL]:
        subject = "net" if name in OF_MODEL else cell.key
        rows = [ResultRow(subject=subject, check=name, image=image, **of) for image, of in found.get(name, {}).items()]
        if name not in without:
            store.add(evidence_row(subject, name), *rows)


def result(part: str, **changes: Any) -> dict[str, Any]:
    return {"part": part, "broken": False, "against": False, "value": None, "passes": 3} | changes


def against(images: Sequence[int], part: str = "nearest", value: float | None = None) -> dict[int, Any]:
    """Results that speak against the number, without an adversarial example."""
    return {image: result(part, against=True, value=value) for image in images}


def broken(images: Sequence[int], part: str = "nearest") -> dict[int, Any]:
    return {image: result(part, broken=True, against=True) for image in images}


def held(images: Sequence[int], part: str = "nearest") -> dict[int, Any]:
    return {image: result(part) for image in images}


def judged(store: Store, planned: Sequence[Cell] = (CELL,), cell: Cell = CELL, **facts: Any) -> Trust:
    identity = identity_of(*planned, **{"images": IMAGES, "evidence": "full"} | facts)
    return Judgement(store, identity).of(cell)


def outcome(trust: Trust, name: str) -> Outcome:
    (found,) = (outcome for outcome in trust.outcomes if outcome.check == name)
    return found


def counts(trust: Trust, name: str) -> tuple[str, int, int]:
    found = outcome(trust, name)
    return found.status, found.examined, found.against


def reasons(trust: Trust) -> list[str]:
    return [reason for reason in trust.reasons.split("; ") if reason]


# Nothing found


def test_what_every_check_leaves_alone_is_sound(store: Store) -> None:
    attack(store, broken=range(5))
    examine(store, {"more_steps": held(range(5, IMAGES)), "stochastic": held(range(16))})
    trust = judged(store)
    assert (trust.trust, trust.reasons, trust.worst_correct) == ("sound", "", IMAGES - 5)
    assert {outcome.status for outcome in trust.outcomes} == {"held", "reported"}


def test_every_check_has_its_say_once_with_a_sentence_and_a_place_to_read_on(store: Store) -> None:
    attack(store)
    examine(store)
    outcomes = judged(store).outcomes
    assert sorted(outcome.check for outcome in outcomes) == sorted(CHECKS)
    assert all(outcome.sentence.startswith("0 of ") for outcome in outcomes)
    assert {outcome.link.partition("#")[2] for outcome in outcomes} == set(CHECKS)


def test_quick_evidence_does_not_miss_what_only_full_evidence_has(store: Store) -> None:
    attack(store)
    quick = {check.name for check in checks_of("quick", AbstractCheck)}
    examine(store, without=set(CHECKS) - quick)
    trust = judged(store, evidence="quick")
    assert (trust.trust, trust.reasons) == ("sound", "")
    assert {outcome.check for outcome in trust.outcomes} == quick


def test_without_evidence_nothing_is_checked_and_the_worst_is_what_was_measured(store: Store) -> None:
    attack(store, broken=[3], degenerate_gradient=True, nearness=None)
    assert judged(store, evidence="off") == Trust(trust="unchecked", worst_correct=IMAGES - 1)


# Attacks that are not what was published under their name


@pytest.mark.parametrize("evidence", ["off", "quick", "full"])
@pytest.mark.parametrize(
    ("norm", "fab", "parts"),
    [("l2", True, []), ("linf", False, ["fab"]), ("l1", True, ["l1 version"]), ("l1", False, ["fab", "l1 version"])],
)
def test_autoattack_without_a_part_is_never_sound_and_says_which(
    store: Store, evidence: str, norm: str, fab: bool, parts: list[str]
) -> None:
    (planned,) = cells(attack=("autoattack",), norm=(norm,))
    cell = replace(planned, attack=AutoAttack(fab=fab))
    attack(store, cell)
    examine(store, cell=cell)
    trust = judged(store, [cell], cell, evidence=evidence)
    assert trust.trust == ("suspect" if parts else "unchecked" if evidence == "off" else "sound")
    assert reasons(trust) == [f"autoattack without {part}" for part in parts]
    for part in parts:
        assert outcome(trust, part).status == "not done"
        assert outcome(trust, part).sentence == f"not done: {cell.attack.lacks(norm)[part]}"


def test_evidence_that_is_not_finished_is_all_that_is_said_of_an_attack_without_a_part(store: Store) -> None:
    (planned,) = cells(attack=("autoattack",))
    cell = replace(planned, attack=AutoAttack(fab=False))
    attack(store, cell)
    trust = judged(store, [cell], cell)
    assert (trust.trust, trust.reasons) == ("unchecked", UNFINISHED)


# One image suffices


@pytest.mark.parametrize("name", [name for name in CHECKS if CHECKS[name].rule == "any" and name not in VERDICTS])
def test_one_image_undermines_where_one_suffices(name: str, store: Store) -> None:
    attack(store)
    examine(store, {name: against([7]) | held([8, 9])})
    trust = judged(store)
    assert (trust.trust, reasons(trust)) == ("suspect", [name])
    assert counts(trust, name) == ("undermined", 3, 1)
    # No adversarial example was found, so no image is broken.
    assert trust.worst_correct == IMAGES


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"prediction": -1}, "not_finite"),
        ({"nearness": None}, "not_finite"),
    ],
)
def test_one_verdict_undermines_where_one_suffices(changed: dict[str, Any], name: str, store: Store) -> None:
    attack(store, **changed)
    examine(store)
    assert reasons(judged(store)) == [name]


def test_the_space_of_the_encoding_undermines_every_number(store: Store) -> None:
    encoded = replace(CELL, space="encoded")
    attack(store, encoded)
    examine(store, cell=encoded)
    trust = judged(store, [encoded], encoded)
    assert reasons(trust) == ["space"]
    assert outcome(trust, "space").against == IMAGES


@pytest.mark.parametrize(("degenerate", "suspect"), [(1, False), (3, False), (IMAGES // 4, True), (IMAGES, True)])
def test_gradients_that_are_0_undermine_where_they_are_more_than_a_few(
    degenerate: int, suspect: bool, store: Store
) -> None:
    store.add(model_row(), *map(clean_row, range(IMAGES)))
    for image in range(IMAGES):
        store.add(verdict_row(CELL, image, nearness=-1.0, degenerate_gradient=image < degenerate))
    examine(store)
    trust = judged(store)
    assert reasons(trust) == ["degenerate_gradients"] * suspect
    assert counts(trust, "degenerate_gradients")[1:] == (IMAGES, degenerate)


def test_pixels_that_need_more_than_eight_bits_are_only_reported(store: Store) -> None:
    attack(store, broken=[0], eight_bit=False)
    examine(store)
    trust = judged(store)
    assert (trust.trust, trust.reasons) == ("sound", "")
    assert counts(trust, "eight_bit") == ("reported", 1, 1)


@pytest.mark.parametrize("name", [name for name in OF_CELL if CHECKS[name].rule == "report"])
def test_what_is_reported_undermines_nothing(name: str, store: Store) -> None:
    attack(store)
    examine(store, {name: against(range(32), "sample", 0.7)})
    trust = judged(store)
    assert trust.trust == "sound"
    assert (outcome(trust, name).status, outcome(trust, name).value) == ("reported", 0.7)


def test_the_largest_value_is_told(store: Store) -> None:
    attack(store)
    examine(
        store, {"stochastic": {1: result("nearest", value=0.2), 2: result("nearest", value=0.5), 3: result("nearest")}}
    )
    assert outcome(judged(store), "stochastic").value == 0.5


@pytest.mark.parametrize(("missed", "status"), [(0, "held"), (4, "held"), (5, "undermined"), (32, "undermined")])
def test_a_share_undermines_where_it_is_more_than_chance_explains(missed: int, status: str, store: Store) -> None:
    """The one-sided 95 % bound of 4 of 32 is 4.4 %, that of 5 is 6.4 %: the allowed 5 % lie between."""
    attack(store)
    examine(store, {"binarization": against(range(missed), "sample") | held(range(missed, 32), "sample")})
    trust = judged(store)
    assert counts(trust, "binarization") == (status, 32, missed)
    assert trust.worst_correct == IMAGES


@pytest.mark.parametrize(
    ("name", "level"),
    [
        ("saturated_output", "sound"),
        ("wrong_gradients", "sound"),
        ("filtered_gradients", "sound"),
        ("binarization", "sound"),
        ("solver_dependent", "sound"),
        ("unbounded_attack", "sound"),
        ("stochastic", "suspect"),
        ("batch_dependent", "suspect"),
        ("pixel_range", "suspect"),
        ("other_draws", "suspect"),
        ("surrogate", "suspect"),
    ],
)
def test_a_number_that_is_0_cannot_be_too_high_and_may_be_that_of_something_else(
    name: str, level: str, store: Store
) -> None:
    attack(store, broken=range(IMAGES))
    examine(store, {name: against(range(16), "sample")})
    trust = judged(store)
    assert (trust.trust, reasons(trust), trust.worst_correct) == (level, [name] * (level == "suspect"), 0)
    assert counts(trust, name) == ("undermined" if level == "suspect" else "reported", 16, 16)
    # One that is left may be broken yet.
    attack_one_less = Store()
    attack(attack_one_less, broken=range(IMAGES - 1))
    examine(attack_one_less, {name: against(range(16), "sample")})
    assert judged(attack_one_less).trust == "suspect"


def test_gradients_that_are_0_say_nothing_against_a_number_that_is_0(store: Store) -> None:
    store.add(model_row(), *map(clean_row, range(IMAGES)))
    for image in range(IMAGES):
        store.add(verdict_row(CELL, image, success=True, prediction=0, nearness=1.0, degenerate_gradient=True))
    examine(store)
    assert (judged(store).trust, counts(judged(store), "degenerate_gradients")[0]) == ("sound", "reported")


# What no search along gradients broke


@pytest.mark.parametrize("name", [name for name in CHECKS if CHECKS[name].rule == "gradients"])
def test_what_breaks_without_gradients_alone_undermines(name: str, store: Store) -> None:
    attack(store)
    examine(store, {name: broken([7])})
    trust = judged(store)
    assert reasons(trust) == [name]
    assert trust.worst_correct == IMAGES - 1


@pytest.mark.parametrize("name", [name for name in CHECKS if CHECKS[name].rule == "gradients"])
def test_what_a_longer_search_along_gradients_breaks_too_does_not(name: str, store: Store) -> None:
    attack(store)
    examine(store, {name: broken([7]), "more_steps": broken([7], "called")})
    trust = judged(store)
    assert trust.trust == "sound"
    assert counts(trust, name) == ("repaired", 1, 1)
    assert trust.worst_correct == IMAGES - 1


def test_one_image_that_gradients_do_not_explain_is_enough(store: Store) -> None:
    attack(store)
    examine(store, {"black_box": broken([7, 8]), "other_losses": broken([7], "called") | held([8], "called")})
    trust = judged(store)
    assert reasons(trust) == ["black_box"]
    assert outcome(trust, "black_box").against == 1


def test_a_longer_search_without_gradients_explains_nothing(store: Store) -> None:
    """Of an attack by queries, four times the queries are no gradients."""
    (square,) = cells(attack=("square",))
    attack(store, square)
    examine(store, {"black_box": broken([7]), "more_steps": broken([7], "called")}, square)
    assert "black_box" in reasons(judged(store, [square], square))


# Second searches


@pytest.mark.parametrize(("count", "status"), [(0, "held"), (1, "repaired"), (5, "repaired"), (6, "undermined")])
def test_few_images_that_a_longer_search_breaks_are_counted_as_broken_and_forgotten(
    count: int, status: str, store: Store
) -> None:
    """The one-sided 95 % bound of 5 of 400 is 0.494 %, that of 6 is 0.655 %: half a point lies between."""
    attack(store)
    examine(store, {"more_steps": broken(range(count)) | held(range(count, IMAGES))})
    trust = judged(store)
    assert counts(trust, "more_steps") == (status, IMAGES, count)
    assert trust.worst_correct == IMAGES - count
    assert (trust.trust == "suspect") == (status == "undermined")


@pytest.mark.parametrize(("count", "status"), [(80, "repaired"), (81, "undermined")])
def test_other_losses_may_take_twenty_points_before_the_attack_is_none(count: int, status: str, store: Store) -> None:
    attack(store)
    examine(store, {"other_losses": broken(range(count)) | held(range(count, IMAGES))})
    trust = judged(store)
    assert outcome(trust, "other_losses").status == status
    assert trust.worst_correct == IMAGES - count


def test_one_image_is_nothing_to_be_accused_of(store: Store) -> None:
    attack(store, images=1)
    examine(store, {"other_losses": broken([0])})
    assert outcome(judged(store, images=1), "other_losses").status == "repaired"


@pytest.mark.parametrize(
    ("stay", "asked", "status"), [(11, 16, "held"), (12, 16, "undermined"), (4, 4, "held"), (5, 5, "undermined")]
)
def test_images_that_stay_where_everything_is_allowed_speak_if_they_are_most(
    stay: int, asked: int, status: str, store: Store
) -> None:
    attack(store)
    examine(store, {"unbounded_attack": against(range(stay)) | held(range(stay, asked))})
    assert outcome(judged(store), "unbounded_attack").status == status


@pytest.mark.parametrize("name", ["more_steps", "other_losses"])
def test_a_broken_sample_stands_for_images_that_were_not_examined(name: str, store: Store) -> None:
    attack(store)
    examine(store, {name: held(range(48)) | broken([100, 200], "sample") | held(range(300, 314), "sample")})
    assert reasons(judged(store)) == [name]


@pytest.mark.parametrize("name", ["more_steps", "other_losses"])
def test_a_sample_stands_for_nothing_where_all_were_examined(name: str, store: Store) -> None:
    attack(store, images=20)
    examine(store, {name: broken([19], "sample") | held(range(19))})
    assert outcome(judged(store), name).status == "repaired"


@pytest.mark.parametrize("name", ["more_steps", "other_losses"])
def test_where_the_last_of_the_nearest_are_broken_more_would_be(name: str, store: Store) -> None:
    attack(store)
    examine(store, {name: broken(range(8)) | held([300], "sample")})
    assert reasons(judged(store)) == [name]


def test_where_the_last_of_the_nearest_are_robust_no_more_would_be_broken(store: Store) -> None:
    attack(store)
    examine(store, {"other_losses": broken(range(32)) | held(range(32, 48)) | held(range(300, 316), "sample")})
    trust = judged(store)
    assert (trust.trust, trust.worst_correct) == ("sound", IMAGES - 32)


@pytest.mark.parametrize("images", [64, 100, 400])
def test_one_or_two_of_the_nearest_accuse_nobody_where_little_was_examined(images: int, store: Store) -> None:
    """Honest networks lose one or two of ten to a better search; half a point of 64 images is less than one image."""
    attack(store, images=images)
    found = {"other_losses": broken([0, 1]) | held(range(2, 10)) | held(range(20, 30), "sample")}
    examine(store, found | {"more_steps": broken([2]) | held([0, 1]) | held([40, 50], "sample")})
    trust = judged(store, images=images)
    assert (trust.trust, trust.worst_correct) == ("sound", images - 3)


def test_images_that_were_called_are_no_sample(store: Store) -> None:
    attack(store)
    found = {"noise": broken([300, 301, 302]), "other_losses": broken([300, 301, 302], "called") | held(range(48))}
    examine(store, found)
    trust = judged(store)
    assert (trust.trust, trust.worst_correct) == ("sound", IMAGES - 3)


# Other cells


def test_an_image_that_is_broken_within_a_smaller_radius_is_not_robust_within_a_larger_one(store: Store) -> None:
    small, large = cells(eps=("0.25", "0.5"))
    attack(store, small, broken=[1, 2])
    attack(store, large, broken=[2, 3])
    for cell in (small, large):
        examine(store, cell=cell)
    trusts = [judged(store, [small, large], cell) for cell in (small, large)]
    assert [trust.worst_correct for trust in trusts] == [IMAGES - 2, IMAGES - 3]
    assert counts(trusts[1], "larger_ball") == ("repaired", IMAGES - 2, 1)
    assert outcome(trusts[0], "larger_ball").status == "held"
    assert outcome(trusts[1], "other_attacks").status == "held"


def test_many_images_that_are_broken_within_a_smaller_radius_undermine(store: Store) -> None:
    small, large = cells(eps=("0.25", "0.5"))
    attack(store, small, broken=range(10))
    attack(store, large)
    examine(store, cell=large)
    trust = judged(store, [small, large], large)
    assert reasons(trust) == ["larger_ball"]
    assert trust.worst_correct == IMAGES - 10


def test_the_worst_case_is_over_all_attacks_and_all_checks_within_the_radius(store: Store) -> None:
    few, many = cells(steps=(5, 50))
    attack(store, few, broken=[1])
    attack(store, many, broken=[2])
    examine(store, {"noise": broken([3]), "more_steps": broken([4]) | held([3])}, few)
    examine(store, {"black_box": broken([5])}, many)
    trusts = [judged(store, [few, many], cell) for cell in (few, many)]
    assert [trust.worst_correct for trust in trusts] == [IMAGES - 5, IMAGES - 5]
    assert counts(trusts[0], "other_attacks") == ("repaired", IMAGES - 1, 1)


@pytest.mark.parametrize(
    "other",
    [{"threat": Threat.of("linf", "0.5")}, {"model": "other"}, {"space": "encoded"}, {"criterion": "targeted:0"}],
)
def test_what_breaks_under_another_threat_proves_nothing(other: dict[str, Any], store: Store) -> None:
    elsewhere = replace(CELL, **other)
    attack(store)
    attack(store, elsewhere, broken=range(50))
    store.add(*(clean_row(image, model="other") for image in range(IMAGES)))
    examine(store)
    trust = judged(store, [CELL, elsewhere])
    assert (trust.trust, trust.worst_correct) == ("sound", IMAGES)


# What was not done


def test_a_check_that_could_not_be_done_is_named_and_accuses_nobody(store: Store) -> None:
    attack(store)
    examine(store)
    store.add(evidence_row(CELL.key, "transfer", "there is no second model in this run"))
    trust = judged(store)
    assert (trust.trust, trust.reasons) == ("sound", "transfer not done")
    assert outcome(trust, "transfer").sentence == "not done: there is no second model in this run"


@pytest.mark.parametrize("missing", ["noise", "detects_attack"])
def test_while_checks_are_yet_to_be_carried_out_a_number_is_not_called_anything(missing: str, store: Store) -> None:
    attack(store)
    examine(store, {"wrong_gradients": against([1]), "more_steps": broken([7])}, without=[missing])
    trust = judged(store)
    assert (trust.trust, trust.reasons, trust.outcomes) == ("unchecked", "evidence not finished", ())
    assert trust.worst_correct == IMAGES - 1


def test_parts_of_an_attack_that_cannot_be_had_are_named_and_accuse_nobody(store: Store) -> None:
    (aimed,) = cells(attack=("apgd_targeted",), targets=12)
    attack(store, aimed)
    examine(store, cell=aimed)
    trust = judged(store, [aimed], aimed, classes=10)
    assert (trust.trust, trust.reasons) == ("sound", "targets not done")


# Sums


def test_examined_images_count_once_and_passes_add_up(store: Store) -> None:
    attack(store)
    examine(store, {"noise": held([1, 2]), "more_steps": held([2, 3, 4])})
    trust = judged(store)
    assert (trust.examined, trust.passes) == (4, 15)


def test_images_that_were_wrong_when_clean_are_never_robust(store: Store) -> None:
    store.add(model_row(), *(clean_row(image, prediction=1 - image % 2) for image in range(10)))
    rows = [verdict_row(CELL, image, attacked=image % 2 == 0, success=image == 0, nearness=-1.0) for image in range(10)]
    store.add(*rows)
    examine(store)
    trust = judged(store, images=10)
    assert trust.worst_correct == 4
    assert outcome(trust, "degenerate_gradients").examined == 5
