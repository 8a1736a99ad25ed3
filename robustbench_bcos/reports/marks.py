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
    found: dict[str, dict[str, dict[str, None]]] = {}
    for name, row in rows:
        if row["trust"] in MEANINGS and isinstance(row["reasons"], str) and row["reasons"]:
            # Rows of one name may be marked for different reasons: the name is said once.
            found.setdefault(row["trust"], {}).setdefault(name, {}).update(dict.fromkeys(row["reasons"].split("; ")))
    said = {
        trust: ", ".join(f"{name} ({'; '.join(why)})" for name, why in names.items()) for trust, names in found.items()
    }
    return [f"{trust.capitalize()} ({MARKS[trust]}): {said[trust]}; see {PAGE}." for trust in MEANINGS if trust in said]


def trust_of(trusts: Iterable[str]) -> str:
    """The trust of several rows in a few words, each with its mark: it is the legend of what stands beside it."""
    every = list(trusts)
    counts = {trust: every.count(trust) for trust in MARKS if trust in every}
    words = {trust: f"{trust} ({MARKS[trust]})" if MARKS[trust] else trust for trust in counts}
    if len(counts) == 1:
        return next(iter(words.values()))
    return ", ".join(f"{count} {words[trust]}" for trust, count in counts.items())
