"""Reasons: what undermines a run, in sentences that name model, check, numbers and where it is explained."""

from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from robustbench_bcos.bench.evidence import CHECKS
from robustbench_bcos.bench.evidence.check import PAGE
from robustbench_bcos.bench.evidence.trust import UNFINISHED, Status
from robustbench_bcos.bench.records import EVIDENCE_COLUMNS
from robustbench_bcos.reports.reasons import REPAIR, Reason, reasons, trust_notes
from robustbench_bcos.reports.run_folder import RunFolder
from tests.reports import handmade
from tests.reports.handmade import record, run_of, table

SOUND = "Trust: sound. Nothing was found that undermines these numbers."


def outcome(
    cell: int, check: str, status: Status, against: int = 0, examined: int = 40, why: str = ""
) -> dict[str, Any]:
    sentence = f"not done: {why}" if status == "not done" else f"{against} of {examined} images {CHECKS[check].asks}"
    link = CHECKS[check].link if check in CHECKS else PAGE
    return handmade.outcome(f"cell {cell}", check, status, against, examined, sentence=sentence, link=link)


def test_a_reason_that_is_explained_nowhere_ends_with_what_was_found() -> None:
    found = outcome(0, "noise", "undermined", 3) | {"link": ""}
    assert trust_notes(judged(suspect(), evidence=(found,)))[1] == f"  net: noise: {found['sentence']}"


def judged(*rows: dict[str, Any], evidence: tuple[dict[str, Any], ...] = ()) -> RunFolder:
    run = run_of(table(*rows))
    return replace(run, evidence=pd.DataFrame(list(evidence), columns=list(EVIDENCE_COLUMNS)))


def sound(model: str = "net", **changes: Any) -> dict[str, Any]:
    return record(model, 100, trust="sound", **changes)


def suspect(model: str = "net", **changes: Any) -> dict[str, Any]:
    return record(model, 100, trust="suspect", **changes)


# Reasons


def test_a_reason_is_a_check_of_a_model_with_what_it_found_most() -> None:
    run = judged(
        suspect("b"), suspect("b", eps="1"), suspect("a"), sound("a", eps="1"),
        evidence=(
            outcome(0, "noise", "undermined", 2),
            outcome(0, "black_box", "undermined", 1),
            outcome(1, "noise", "undermined", 7),
            outcome(1, "black_box", "held"),
            outcome(2, "noise", "undermined", 3),
            outcome(3, "noise", "repaired", 9),
        ),
    )  # fmt: skip
    assert reasons(run) == [
        Reason(model=model, check=check, rows=rows, sentence=f"{against} of 40 images {said}", link=f"{PAGE}#{check}")
        for model, check, rows, against, said in (
            ("b", "noise", 2, 7, "broken by random noise and by no search along gradients"),
            ("b", "black_box", 1, 1, "broken by Square and by no search along gradients"),
            ("a", "noise", 1, 3, "broken by random noise and by no search along gradients"),
        )
    ]


@pytest.mark.parametrize("status", ["held", "repaired", "reported", "not done"])
def test_nothing_else_is_a_reason(status: str) -> None:
    run = judged(sound(), evidence=(outcome(0, "more_steps", status, 3, why="of this"),))
    assert reasons(run) == []


def test_a_run_without_evidence_has_no_reasons() -> None:
    assert reasons(run_of(table(record("net", 10)))) == []
    assert reasons(judged(sound())) == []


# Notes


def test_an_unchecked_run_says_so_and_nothing_else() -> None:
    rows = (record(name, 10, trust="unchecked") for name in ("net", "other"))
    (note,) = trust_notes(run_of(table(*rows)))
    assert note == "Trust: unchecked (†). No evidence for or against these numbers has been gathered."


def test_a_run_whose_evidence_is_not_finished_says_how_it_is_and_what_is_marked_by_now() -> None:
    unfinished = record("b", 10, trust="unchecked", reasons=UNFINISHED)
    run = judged(suspect("a"), unfinished, evidence=(outcome(0, "noise", "undermined", 2),))
    first, why = trust_notes(run)
    assert first.startswith("Trust: 1 suspect (?), 1 unchecked (†). Suspect numbers are not to be quoted. ")
    assert "The evidence is not finished: repeat the command" in first
    assert why.startswith("  a: noise: 2 of 40 images")


def test_a_sound_run_says_so_and_nothing_else() -> None:
    assert trust_notes(judged(sound(), evidence=(outcome(0, "noise", "held"),))) == [SOUND]


def test_a_suspect_run_counts_its_rows_and_says_why_of_each_model() -> None:
    run = judged(
        suspect("a"), suspect("a", eps="1"), sound("b"),
        evidence=(outcome(0, "noise", "undermined", 2), outcome(1, "noise", "undermined", 3)),
    )  # fmt: skip
    first, why = trust_notes(run)
    assert first == "Trust: 2 suspect (?), 1 sound. Suspect numbers are not to be quoted."
    assert why == (
        "  a: noise: 3 of 40 images broken by random noise and by no search along gradients (2 rows); "
        "see docs/reference/checks.md#noise"
    )


def test_one_row_is_not_counted() -> None:
    run = judged(suspect(), evidence=(outcome(0, "space", "undermined", 40),))
    assert "rows)" not in trust_notes(run)[1]


def test_what_further_searches_took_is_said_of_each_model_at_its_most() -> None:
    run = judged(
        sound("b", worst_correct=98), sound("b", eps="1", worst_correct=93), sound("a", worst_correct=100),
        sound("c", worst_correct=99),
    )  # fmt: skip
    assert trust_notes(run) == [SOUND, f"{REPAIR}b 7, c 1."]


def test_what_was_not_done_is_said_once_with_its_reason() -> None:
    alone = outcome(0, "transfer", "not done", why="there is no second model in this run")
    run = judged(
        sound(), sound(eps="1"),
        evidence=(
            alone, {**alone, "cell": "cell 1"},
            outcome(1, "fab", "not done", why='it needs torchattacks, pip install torchattacks'),
        ),
    )  # fmt: skip
    assert trust_notes(run) == [
        SOUND,
        "transfer not done: there is no second model in this run.",
        "fab not done: it needs torchattacks, pip install torchattacks.",
    ]


def test_a_link_leads_to_where_the_check_is_explained() -> None:
    assert [CHECKS[name].link for name in CHECKS] == [f"{PAGE}#{name}" for name in CHECKS]
