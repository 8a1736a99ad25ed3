"""Options that take several values: repeated, or separated by commas."""

import tomllib
from collections.abc import Sequence
from typing import Any

from robustbench_bcos.core.errors import RequestError

LIST = "Repeat it, or separate with commas."


def split(option: str, values: Sequence[str] | None) -> tuple[str, ...]:
    """All values of an option.

    Raises:
        RequestError: it was given, and is empty.
    """
    parts = tuple(part.strip() for value in values or () for part in value.split(",") if part.strip())
    if values and not parts:
        raise RequestError(f"{option} is empty: give it a value, or leave it out for its default")
    return parts


def pairs(option: str, texts: Sequence[str]) -> dict[str, Any]:
    """``KEY=VALUE``, with values as TOML reads them, or as text.

    Raises:
        RequestError: one has no equals sign.
    """
    found: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise RequestError(f"{option} {text!r} must be KEY=VALUE: b=1.5, say")
        try:
            found[key] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            found[key] = value
    return found
