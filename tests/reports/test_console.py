"""What is printed: every number at any width, plain text where it goes to a file, and what must be known to read it."""

import io
import re
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from robustbench_bcos.reports.console import accuracy_table, reading_notes
from tests.reports.handmade import outcome, record, run_of, table

COUNTS = {("digits-natural", 199): (60, 50, 4, 3), ("digits-bcos-adv-l2", 190): (160, 150, 90, 81)}
CELLS = [("0.5", 20), ("0.5", 100), ("1", 20), ("1", 100)]
RECORDS = table(
    *(
        record(model, robust, clean=clean, eps=eps, steps=steps)
        for (model, clean), counts in COUNTS.items()
        for (eps, steps), robust in zip(CELLS, counts, strict=True)
    )
)
# As many columns as the largest packaged grid has.
MANY = pd.concat([RECORDS, RECORDS.assign(norm="linf")], ignore_index=True)
BOLD = re.compile(r"\x1b\[1m([^\x1b]*)\x1b\[0m")


def printed(records: pd.DataFrame, *, width: int = 200, terminal: bool = False) -> str:
    output = io.StringIO()
    console = Console(
        file=output,
        width=width,
        force_terminal=terminal,
        highlight=False,
        color_system="standard" if terminal else None,
    )
    console.print(accuracy_table(run_of(records)))
    return output.getvalue()


def bold(records: pd.DataFrame) -> set[str]:
    """Numbers in bold."""
    return {text.strip() for text in BOLD.findall(printed(records, terminal=True)) if re.search(r"\d", text)}


def test_the_table_shows_percents_over_their_intervals() -> None:
    text = printed(RECORDS)
    assert "Robust accuracy in % under pgd on 200 images of digits" in text
    for shown in ("digits-natural", "clean", "l2 0.5", "l2 1", "99.5", "30.0 / 25.0", "2.0 / 1.5", "80.0 / 75.0"):
        assert shown in text
    # Wilson's intervals of 60 and of 50 of 200, as statsmodels has them.
    assert "24.1–36.7 / 19.5–31.4" in text
    assert len({len(line) for line in text.splitlines()[1:]}) == 1


@pytest.mark.parametrize("width", [60, 80, 200])
def test_no_line_is_wider_than_the_terminal_and_no_number_is_lost(width: int) -> None:
    text = printed(MANY, width=width)
    assert max(map(len, text.splitlines())) <= width
    assert text.count("│") % 7 == 0
    assert "…" not in text
    for number in ("99.5", "95.0", "30.0", "25.0", "2.0", "1.5", "80.0", "75.0", "45.0", "40.5"):
        assert number in text


def test_what_is_printed_to_a_file_has_no_control_codes() -> None:
    assert "\x1b" not in printed(RECORDS)
    assert "\x1b" in printed(RECORDS, terminal=True)


def test_the_best_of_each_column_is_bold() -> None:
    assert {"99.5", "80.0 / 75.0", "45.0 / 40.5"} <= bold(RECORDS)
    assert not {"95.0", "30.0 / 25.0", "2.0 / 1.5"} & bold(RECORDS)


def test_equals_are_bold_together_and_nobody_is_best_at_zero() -> None:
    equal = table(*(record(model, robust, eps=eps) for eps, robust in (("0.5", 10), ("1", 0)) for model in "ab"))
    assert printed(equal, terminal=True).count("\x1b[1m5.0") == 2
    assert "0.0" not in bold(equal)


def test_the_best_is_decided_by_the_most_steps() -> None:
    turned = table(record("a", 90), record("a", 10, steps=100), record("b", 80), record("b", 20, steps=100))
    assert "40.0 / 10.0" in bold(turned)
    assert "45.0 / 5.0" not in bold(turned)


def test_a_suspect_number_is_never_the_best() -> None:
    mixed = table(record("a", 90, trust="suspect"), record("b", 80, trust="sound"), record("c", 70, trust="sound"))
    assert not {"45.0?", "40.0", "35.0"} & bold(mixed)
    assert "45.0" in bold(mixed.assign(trust="sound"))


def test_criteria_are_named_together() -> None:
    each = [record("net", 10, criterion=f"targeted:{target}") for target in range(3)]
    said = [note for note in reading_notes(run_of(table(*each))) if note.startswith("Criterion")]
    assert said == [
        "Criterion: targeted:0, targeted:1, targeted:2. Robust is whatever does not meet it, other errors included."
    ]


def test_names_are_printed_as_they_are() -> None:
    assert "net[bold]:x" in printed(table(record("net[bold]:x", 10)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ([{"steps": 20}, {"steps": 100}], "Attack: pgd (20 / 100 steps)."),
        ([{"steps": 0, "attack": "noise", "loss": ""}, {"steps": 20}], "Attack: noise and pgd (20 steps)."),
        ([{"trust": "unchecked"}], "Trust: unchecked (†)."),
        ([{"space": "encoded"}], "not a robust accuracy"),
        ([{}], "95 % interval"),
    ],
)
def test_notes_say_what_must_be_known(changes: list[dict[str, Any]], said: str) -> None:
    notes = reading_notes(run_of(table(*(record("net", 10, **each) for each in changes))))
    assert said in " ".join(notes)


def test_notes_say_what_is_odd_about_the_images() -> None:
    run = run_of(table(record("net", 10)))
    assert "Left out: 3." in reading_notes(replace(run, session={**run.session, "images": ["Left out: 3."]}))


def test_notes_do_not_speak_of_what_is_not_there() -> None:
    noise = record("net", 10, steps=0, attack="noise", loss="", trust="sound")
    notes = " ".join(reading_notes(run_of(table(noise))))
    assert "steps" not in notes
    assert "suspect" not in notes
    assert "unchecked" not in notes
    assert "Further searches" not in notes
    assert "encoded" not in notes


# Trust


def test_a_suspect_number_is_marked_and_its_neighbours_are_not() -> None:
    mixed = table(
        record("a", 60, trust="sound"),
        record("a", 50, steps=100, trust="suspect"),
        record("b", 40, trust="suspect"),
        record("b", 30, steps=100, trust="sound"),
        record("c", 20, trust="unchecked"),
        record("c", 10, steps=100, trust="unchecked"),
    )
    text = printed(mixed)
    for shown in ("30.0 / 25.0?", "20.0? / 15.0", "10.0† / 5.0†"):
        assert shown in text
    assert text.count("?") == 2
    assert "95.0?" not in text


@pytest.mark.parametrize("width", [60, 200])
def test_a_mark_is_not_lost_on_a_narrow_terminal(width: int) -> None:
    text = printed(MANY.assign(trust="suspect"), width=width)
    assert max(map(len, text.splitlines())) <= width
    assert text.count("?") == len(MANY)


def test_an_unchecked_number_can_be_the_best() -> None:
    assert "30.0†" in bold(table(record("a", 60, trust="unchecked"), record("b", 40, trust="sound")))


def test_the_worst_case_is_what_is_shown_with_its_interval_and_decides_the_best() -> None:
    fallen = record("a", 60, trust="sound", worst_correct=20, robust_accuracy_worst=0.1)
    text = printed(table(fallen, record("b", 40, trust="sound")))
    assert "30.0" not in text
    assert "10.0" in text
    # Wilson's interval of 20 of 200.
    assert "6.6–14.9" in text
    assert {"20.0"} <= bold(table(fallen, record("b", 40, trust="sound")))


def test_notes_say_why_a_number_is_suspect() -> None:
    run = run_of(table(record("net[bold]", 10, trust="suspect")))
    notes = reading_notes(replace(run, evidence=pd.DataFrame([outcome("cell 0", "noise", "undermined", 3, 9)])))
    assert "  net[bold]: noise: 3 of 9 images noise; see page#noise" in notes
    assert notes[0] == "Attack: pgd (20 steps)."
