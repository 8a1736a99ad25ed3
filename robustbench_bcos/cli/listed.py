"""Options that take several values: repeated, or separated by commas."""

import tomllib
from typing import Any

from robustbench_bcos.core.errors import RequestError

LIST = "Repeat it, or separate with commas."


def split(option: str, values: list[str] | None) -> tuple[str, ...]:
    """All values of an option.

    Raises:
        RequestError: it was given, and is empty.
    """
    parts = tuple(part.strip() for value in values or () for part in value.split(",") if part.strip())
    if values and not parts:
        raise RequestError(f"{option} is empty: give it a value, or leave it out for its default")
    return parts


def indices(option: str, values: list[str] | None) -> tuple[int, ...]:
    """All values of an option that names images by their place in a dataset, each once.

    Raises:
        RequestError: one is not a number of at least 0.
    """
    parts = split(option, values)
    for part in parts:
        if not (part.isascii() and part.isdigit()):
            raise RequestError(f"{option} {part} is not the index of an image: give numbers from 0, 3,14,15, say")
    return tuple(dict.fromkeys(int(part) for part in parts))


def pairs(texts: list[str] | None) -> dict[str, Any]:
    """``KEY=VALUE``, with values as TOML reads them, or as text.

    Raises:
        RequestError: one has no equals sign.
    """
    found: dict[str, Any] = {}
    for text in texts or ():
        key, equals, value = text.partition("=")
        if not equals:
            raise RequestError(f"--argument {text!r} must be KEY=VALUE: b=1.5, say")
        try:
            found[key] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            found[key] = value
    return found
