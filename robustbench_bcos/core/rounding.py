"""Numbers as they are recorded: no more digits than depend on nothing but the request."""

import math


def significant(value: float, digits: int = 6) -> float | None:
    """Rounded to so many significant digits, because further ones are float noise of the batch an image was in.

    ``None`` where it is NaN or infinite, which neither SQLite nor CSV has a word for.
    """
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None
