"""The mark of a number that cannot be trusted, and what it means: both go wherever the number goes."""

from collections.abc import Iterable, Mapping
from typing import Any

from robustbench_bcos.bench.evidence.trust import least_trusted

MARKS = {"suspect": "?", "unchecked": "†", "sound": ""}
"""What follows a number, by the trust of its row."""

MEANINGS = {
    "suspect": "suspect, not to be quoted",
    "unchecked": "unchecked, no evidence was gathered",
}
"""What a mark says of a number."""

PAGE = "docs/evidence.md"


def mark(*trusts: str) -> str:
    """The mark of a number that follows from rows of these trusts; of a number without an attack there is none."""
    known = [trust for trust in trusts if trust]
    return MARKS[least_trusted(known)] if known else ""


def marked(text: str, *trusts: str) -> str:
    """A number as text, with its mark; what could not be measured has none."""
    return text + mark(*trusts) if text else text


def legend(trusts: Iterable[str]) -> list[str]:
    """What the marks of numbers of these trusts mean, the gravest first."""
    known = set(trusts)
    return [f"{MARKS[trust]} {meaning}" for trust, meaning in MEANINGS.items() if trust in known]


def mark_notes(rows: Iterable[tuple[str, Mapping[Any, Any]]]) -> list[str]:
    """Why rows are marked.

    Args:
        rows: the name by which a reader finds a row, and the row of results.
    """
    found: dict[str, list[str]] = {}
    for name, row in rows:
        if row["trust"] in MEANINGS and isinstance(row["reasons"], str) and row["reasons"]:
            found.setdefault(row["trust"], []).append(f"{name} ({row['reasons']})")
    return [
        f"{trust.capitalize()} ({MARKS[trust]}): {', '.join(dict.fromkeys(found[trust]))}; see {PAGE}."
        for trust in MEANINGS
        if trust in found
    ]


def trust_of(trusts: Iterable[str]) -> str:
    """The trust of several rows in a few words, each with its mark: it is the legend of what stands beside it."""
    every = list(trusts)
    counts = {trust: every.count(trust) for trust in MARKS if trust in every}
    words = {trust: f"{trust} ({MARKS[trust]})" if MARKS[trust] else trust for trust in counts}
    if len(counts) == 1:
        return next(iter(words.values()))
    return ", ".join(f"{count} {words[trust]}" for trust, count in counts.items())
