"""Numbers as they are recorded: only digits that depend on nothing but the request."""

import math

OF_MAPS = 4
"""Significant digits of what is measured on a map: it adds up many rounded numbers of either sign, in an order that
depends on how many images a network is shown at a time. Of similarities, the last may differ in one of 40 rows."""


def rounded(value: float, digits: int = 6) -> float:
    """A finite number to ``digits`` significant digits: further ones are float noise of the image's batch."""
    return float(f"{value:.{digits}g}")


def significant(value: float, digits: int = 6) -> float | None:
    """:func:`rounded`, and ``None`` for NaN and infinity, which neither SQLite nor CSV can hold."""
    return rounded(value, digits) if math.isfinite(value) else None


def rounded_down(value: float) -> float:
    """A positive number to 6 significant digits, never above what it is: for what is proved of it."""
    return rounded(value * (1 - 1e-5))
