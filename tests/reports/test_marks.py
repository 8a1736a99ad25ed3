"""Marks: one home for what follows a number that cannot be trusted, and for what that means."""

from typing import Any

import pytest

from robustbench_bcos.bench.evidence.trust import LEVELS, least_trusted
from robustbench_bcos.reports.marks import MARKS, MEANINGS, legend, mark, mark_notes, marked, trust_of


def test_every_level_but_sound_has_a_mark_of_its_own_and_a_meaning() -> None:
    assert set(MARKS) == set(LEVELS)
    assert MARKS["sound"] == ""
    assert len({MARKS[level] for level in LEVELS}) == len(LEVELS)
    assert set(MEANINGS) == {level for level in LEVELS if MARKS[level]}


@pytest.mark.parametrize(
    ("trusts", "text"),
    [
        (["suspect"], "12.5?"),
        (["unchecked"], "12.5†"),
        (["sound"], "12.5"),
        ([""], "12.5"),
        (["sound", "suspect"], "12.5?"),
        (["unchecked", "suspect"], "12.5?"),
        (["sound", "unchecked", ""], "12.5†"),
        (["of another version"], "12.5†"),
    ],
)
def test_a_number_has_the_mark_of_the_least_trusted_row_it_follows_from(trusts: list[str], text: str) -> None:
    assert marked("12.5", *trusts) == text
    assert mark(*trusts) == text.removeprefix("12.5")


def test_what_could_not_be_measured_has_no_mark() -> None:
    assert marked("", "suspect") == ""


def test_a_word_that_is_no_level_or_none_at_all_is_unchecked() -> None:
    assert least_trusted(["Sound"]) == least_trusted([]) == "unchecked"


def test_the_legend_has_the_marks_that_occur_the_gravest_first() -> None:
    assert legend(["sound", ""]) == []
    assert [line[0] for line in legend(["unchecked", "sound", "suspect", "unchecked"])] == ["?", "†"]


def test_notes_name_the_rows_and_their_reasons_once() -> None:
    def row(trust: str, reasons: Any) -> dict[str, Any]:
        return {"trust": trust, "reasons": reasons}

    rows = [
        ("a", row("suspect", "noise")),
        ("b", row("sound", "fab not done")),
        ("a", row("suspect", "noise")),
        ("a", row("suspect", "space; noise")),
        ("c", row("unchecked", "")),
        ("d", row("suspect", None)),
    ]
    (note,) = mark_notes(rows)
    assert note == "Suspect (?): a (noise; space); see docs/evidence.md."


@pytest.mark.parametrize(
    ("trusts", "said"),
    [
        (["sound"], "sound"),
        (["unchecked"], "unchecked (†)"),
        (["sound", "sound"], "sound"),
        (["suspect", "sound", "suspect"], "2 suspect (?), 1 sound"),
        (["sound", "suspect", "sound", "unchecked"], "1 suspect (?), 1 unchecked (†), 2 sound"),
    ],
)
def test_the_trust_of_several_rows_counts_them_and_is_their_legend(trusts: list[str], said: str) -> None:
    assert trust_of(trusts) == said
