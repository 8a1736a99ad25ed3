"""What the gate says, as the machines that read it understand it."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import pytest

from robustbench_bcos.core.text import printable
from robustbench_bcos.reports.gate import GateReport, Moved
from robustbench_bcos.reports.gate_formats import (
    after,
    annotations,
    as_json,
    as_junit,
    as_markdown,
    before,
    difference,
)
from robustbench_bcos.reports.marks import MARKS, MEANINGS, legend

HELD = Moved(
    name="a pgd l2 0.5",
    model="a",
    column="robust_accuracy_worst",
    status="held",
    before=150.0,
    after=150.0,
    change=0.0,
    images=200,
)
LOST = replace(HELD, name="b pgd l2 0.5", model="b", status="regressed", after=120.0, change=-30.0, p=1.9e-9)
MEASURE = replace(HELD, column="explanation_cosine_true_attack", before=0.5, after=0.62345, change=0.12345, images=None)
VANISHED = replace(MEASURE, status="regressed", after=float("nan"), change=float("nan"), note="no value")
MISSING = replace(HELD, status="missing", after=None, change=None, note="not in this run")
EXTRA = replace(HELD, status="extra", before=None, change=None, note="not in the baseline")
REPORT = GateReport((LOST, VANISHED, MISSING, EXTRA, MEASURE, HELD), ("Another weights than in the baseline: b.",))

HOSTILE = "x<script>&amp;\"'|y\nz\r|100%0A::error::,title=t]]>`c`\\"


def hostile() -> GateReport:
    rows = [replace(row, name=HOSTILE, model=HOSTILE) for row in (LOST, MISSING, HELD)]
    return GateReport(tuple(rows), (f"Another weights than in the baseline: {HOSTILE}.",))


@pytest.mark.parametrize(
    ("row", "was", "now", "change"),
    [
        (HELD, "150 of 200", "150 of 200", "+0.0 points"),
        (LOST, "150 of 200", "120 of 200", "-15.0 points"),
        (MEASURE, "0.5", "0.6234", "+0.1235"),
        (VANISHED, "0.5", "–", ""),
        (MISSING, "150 of 200", "–", ""),
        (EXTRA, "–", "150 of 200", ""),
    ],
)
def test_counts_stand_beside_their_total_and_measures_alone(row: Moved, was: str, now: str, change: str) -> None:
    assert (before(row), after(row), difference(row)) == (was, now, change)


@pytest.mark.parametrize("write", [as_junit, as_markdown])
@pytest.mark.parametrize("trust", MEANINGS)
def test_a_marked_number_has_its_mark_and_its_meaning_whether_or_not_its_row_failed(
    write: Callable[[GateReport], str], trust: str
) -> None:
    for row in (HELD, LOST, MEASURE):
        now, told = replace(row, trust_before="sound", trust_after=trust), legend([trust])
        assert (before(now), after(now)) == (before(row), after(row) + MARKS[trust])
        assert difference(now) == difference(row) + MARKS[trust]
        text = write(GateReport((now,), tuple(told)))
        assert after(now) in text
        assert told[0] in text
        # The mark of the baseline's own number.
        assert f"{before(row)}{MARKS[trust]}" in write(GateReport((replace(row, trust_before=trust),), ()))


def test_an_annotation_of_a_marked_number_says_what_the_mark_means() -> None:
    (line,) = annotations(GateReport((replace(LOST, trust_before="sound", trust_after="suspect"),), ()))
    assert "120 of 200? now" in line
    assert legend(["suspect"])[0] in line


# JUnit


def suite_of(report: GateReport) -> ElementTree.Element:
    # As bytes, as a reader of the file has it: the declared encoding must be the one it is written in.
    return ElementTree.fromstring(as_junit(report).encode("utf-8"))


def test_junit_has_a_case_for_each_row_and_a_failure_for_each_that_failed() -> None:
    suite = suite_of(REPORT)
    assert (suite.tag, suite.get("tests"), suite.get("failures")) == ("testsuite", "6", "4")
    cases = suite.findall("testcase")
    assert [(case.get("classname"), case.get("name")) for case in cases] == [
        (row.column, row.name) for row in REPORT.rows
    ]
    failures = [case.find("failure") for case in cases]
    assert [None if failure is None else failure.get("type") for failure in failures] == [
        "regressed",
        "regressed",
        "missing",
        "extra",
        None,
        None,
    ]
    said = [failure.get("message") for failure in failures if failure is not None]
    assert said == [
        "regressed: 150 of 200 before, 120 of 200 now",
        "regressed: 0.5 before, – now no value",
        "missing: 150 of 200 before, – now not in this run",
        "extra: – before, 150 of 200 now not in the baseline",
    ]
    assert [failure.text for failure in failures if failure is not None] == said


def test_junit_of_an_open_gate_has_no_failure() -> None:
    suite = suite_of(GateReport((HELD,), ()))
    assert suite.get("failures") == "0"
    assert suite.find("testcase/failure") is None


def test_junit_keeps_hostile_names() -> None:
    names = [case.get("name") for case in suite_of(hostile()).findall("testcase")]
    assert names == [HOSTILE] * 3


@pytest.mark.parametrize("character", ["\x00", "\x08", "\x1b", "\ufffe"])
def test_junit_holds_no_character_that_xml_forbids(character: str) -> None:
    (case,) = suite_of(GateReport((replace(HELD, name=f"red{character}[31m"),), ())).findall("testcase")
    name = case.get("name")
    assert name is not None
    assert re.fullmatch(r"red.?\[31m", name)


# JSON


def test_json_is_everything_and_strict() -> None:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    content = json.loads(as_json(REPORT), parse_constant=refuse)
    assert content["passed"] is False
    assert content["summary"] == REPORT.summary == "gate closed: 2 regressed, 1 missing, 1 extra, 2 held"
    assert content["notes"] == list(REPORT.notes)
    lost, vanished, *_ = content["rows"]
    assert lost == {
        "name": "b pgd l2 0.5",
        "model": "b",
        "column": "robust_accuracy_worst",
        "status": "regressed",
        "before": 150.0,
        "after": 120.0,
        "change": -30.0,
        "trust_before": "",
        "trust_after": "",
        "images": 200,
        "p": 1.9e-9,
        "note": "",
    }
    assert (vanished["after"], vanished["change"], vanished["p"]) == (None, None, None)
    assert [row["status"] for row in content["rows"]] == [row.status for row in REPORT.rows]


def test_json_keeps_hostile_names() -> None:
    assert {row["name"] for row in json.loads(as_json(hostile()))["rows"]} == {HOSTILE}


# Markdown


def cells_of(line: str) -> list[str]:
    """Cells of a table's line; an escaped bar separates nothing."""
    return [cell.strip() for cell in re.split(r"(?<!\\)(?:\\\\)*\|", line)[1:-1]]


def test_markdown_is_a_heading_notes_and_a_table() -> None:
    lines = as_markdown(REPORT).splitlines()
    assert lines[0] == f"### {REPORT.summary}"
    assert "Another weights than in the baseline: b." in lines
    table = [line for line in lines if line.startswith("|")]
    assert lines[lines.index(table[0]) - 1] == ""
    assert len(table) == 2 + len(REPORT.rows)
    assert all(len(cells_of(line)) == 6 for line in table)
    assert cells_of(table[2]) == [
        "regressed",
        "b pgd l2 0.5 (robust_accuracy_worst)",
        "150 of 200",
        "120 of 200",
        "-15.0 points",
        "1.9e-09",
    ]


def test_markdown_is_not_broken_by_hostile_names() -> None:
    text = as_markdown(hostile())
    assert "<script" not in text
    assert "\r" not in text
    lines = text.split("\n")
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 5
    assert all(len(cells_of(line)) == 6 for line in table)
    # A heading, a note, a table, empty lines; and nothing that a name has begun.
    assert len([line for line in lines if line]) == 1 + 1 + 5


# Annotations


def unescaped(text: str) -> str:
    for code, character in (("%2C", ","), ("%3A", ":"), ("%0A", "\n"), ("%0D", "\r"), ("%25", "%")):
        text = text.replace(code, character)
    return text


def test_each_failed_row_is_an_annotation() -> None:
    found = annotations(REPORT)
    assert len(found) == sum(row.failed for row in REPORT.rows) == 4
    assert found[0] == (
        "::error title=regressed%3A b pgd l2 0.5::robust_accuracy_worst: 150 of 200 before, 120 of 200 now"
    )
    assert annotations(GateReport((HELD, MEASURE), ())) == []


def test_an_annotation_is_one_line_whatever_the_name() -> None:
    for line, row in zip(annotations(hostile()), (LOST, MISSING), strict=True):
        assert not set(line) & set("\r\n")
        found = re.fullmatch(r"::error title=([^:,]*)::(.*)", line)
        assert found is not None
        assert unescaped(found[1]) == printable(f"{row.status}: {HOSTILE}")


@pytest.mark.parametrize("write", [as_junit, as_json, as_markdown, annotations])
def test_the_same_report_is_the_same_text(write: Any) -> None:
    assert write(REPORT) == write(REPORT)
