"""The gate's report as JUnit XML, JSON, GitHub annotations and step summary."""

import json
import math
import re
from dataclasses import asdict
from xml.etree import ElementTree

from robustbench_bcos.core.text import in_markdown, printable
from robustbench_bcos.reports.gate import GateReport, Moved
from robustbench_bcos.reports.marks import legend, mark, marked

NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that no XML may hold, escaped or not."""


def before(row: Moved) -> str:
    """The baseline's number with its mark: a count beside its total, or a measure."""
    return _amount(row, row.before, row.trust_before)


def after(row: Moved) -> str:
    """The run's number, likewise."""
    return _amount(row, row.after, row.trust_after)


def _amount(row: Moved, value: float | None, trust: str) -> str:
    if value is None or math.isnan(value):
        return "–"
    return marked(f"{value:.0f} of {row.images}" if row.images is not None else f"{value:.4g}", trust)


def difference(row: Moved) -> str:
    """The change, in points for accuracies."""
    if row.change is None or math.isnan(row.change):
        return ""
    text = f"{100 * row.change / row.images:+.1f} points" if row.images is not None else f"{row.change:+.4g}"
    return marked(text, row.trust_before, row.trust_after)


def as_junit(report: GateReport) -> str:
    """JUnit XML: a test case for each row and gated column."""
    failures = sum(row.failed for row in report.rows)
    suite = ElementTree.Element(
        "testsuite", name="robustbench_bcos", tests=str(len(report.rows)), failures=str(failures)
    )
    for row in report.rows:
        case = ElementTree.SubElement(suite, "testcase", classname=row.column, name=NOT_XML.sub("\ufffd", row.name))
        if row.failed:
            text = f"{row.status}: {_told(row)}"
            ElementTree.SubElement(case, "failure", message=text, type=row.status).text = text
        if mark(row.trust_before, row.trust_after):
            # A marked row that held is a number that a reader of this file alone would take for sound.
            ElementTree.SubElement(case, "system-out").text = _told(row)
    if report.notes:
        ElementTree.SubElement(suite, "system-out").text = NOT_XML.sub("\ufffd", "\n".join(report.notes))
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def as_json(report: GateReport) -> str:
    """Everything the gate found; what is not a number is null."""
    rows = [
        {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in asdict(row).items()}
        for row in report.rows
    ]
    content = {"passed": report.passed, "summary": report.summary, "notes": report.notes, "rows": rows}
    return json.dumps(content, indent=2, allow_nan=False)


def as_markdown(report: GateReport) -> str:
    """A table of what moved, for GitHub's step summary."""
    lines = [
        f"### {in_markdown(report.summary)}",
        "",
        *map(in_markdown, report.notes),
        "",
        "| | row | before | now | change | p |",
        "|---|---|---|---|---|---|",
    ]
    for row in report.rows:
        p = "" if row.p is None else f"{row.p:.2g}"
        cells = [
            row.status,
            f"{row.name} ({row.column})",
            before(row),
            after(row),
            difference(row),
            p,
        ]
        lines.append("| " + " | ".join(map(in_markdown, cells)) + " |")
    return "\n".join(lines) + "\n"


def annotations(report: GateReport) -> list[str]:
    """Workflow commands that GitHub shows on the page of a commit."""
    lines = []
    for row in report.rows:
        if row.failed:
            text = f"{row.column}: {_told(row)}"
            lines.append(f"::error title={_property(f'{row.status}: {row.name}')}::{_data(text)}")
    return lines


def _told(row: Moved) -> str:
    """Both numbers in a sentence, with what their marks mean."""
    marks = legend([row.trust_before, row.trust_after])
    parts = [f"{before(row)} before, {after(row)} now", row.note, f"({'; '.join(marks)})" if marks else ""]
    return " ".join(filter(None, parts))


def _data(text: str) -> str:
    return printable(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
