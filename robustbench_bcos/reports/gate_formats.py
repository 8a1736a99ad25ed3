"""What the gate says, for machines: JUnit XML, JSON, GitHub's annotations and step summary."""

import json
import math
import re
from dataclasses import asdict
from xml.etree import ElementTree

from robustbench_bcos.reports.gate import GateReport, Moved

NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that no XML may hold, escaped or not."""


def amount(row: Moved, value: float | None) -> str:
    """A count beside its total, or a measure."""
    if value is None or math.isnan(value):
        return "–"
    return f"{value:.0f} of {row.images}" if row.images is not None else f"{value:.4g}"


def difference(row: Moved) -> str:
    """The change, in points for accuracies."""
    if row.change is None or math.isnan(row.change):
        return ""
    return f"{100 * row.change / row.images:+.1f} points" if row.images is not None else f"{row.change:+.4g}"


def as_junit(report: GateReport) -> str:
    """JUnit XML: a test case for each row and gated column."""
    failures = sum(row.failed for row in report.rows)
    suite = ElementTree.Element(
        "testsuite", name="robustbench_bcos", tests=str(len(report.rows)), failures=str(failures)
    )
    for row in report.rows:
        case = ElementTree.SubElement(suite, "testcase", classname=row.column, name=NOT_XML.sub("\ufffd", row.name))
        if row.failed:
            text = f"{row.status}: {amount(row, row.before)} before, {amount(row, row.after)} now {row.note}".strip()
            ElementTree.SubElement(case, "failure", message=text, type=row.status).text = text
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
        f"### {report.summary}",
        "",
        *map(_cell, report.notes),
        "",
        "| | row | before | now | change | p |",
        "|---|---|---|---|---|---|",
    ]
    for row in report.rows:
        p = "" if row.p is None else f"{row.p:.2g}"
        cells = [
            row.status,
            f"{row.name} ({row.column})",
            amount(row, row.before),
            amount(row, row.after),
            difference(row),
            p,
        ]
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def annotations(report: GateReport) -> list[str]:
    """Workflow commands that GitHub shows on the page of a commit."""
    lines = []
    for row in report.rows:
        if row.failed:
            text = f"{row.column}: {amount(row, row.before)} before, {amount(row, row.after)} now {row.note}".strip()
            lines.append(f"::error title={_property(f'{row.status}: {row.name}')}::{_data(text)}")
    return lines


def _cell(text: str) -> str:
    return " ".join(text.splitlines()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
