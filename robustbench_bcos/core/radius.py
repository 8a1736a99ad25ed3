"""Epsilons as people write them. All radii are in units of the pixel range [0, 1]."""

import math
from dataclasses import dataclass
from fractions import Fraction

from robustbench_bcos.core.errors import RequestError


@dataclass(frozen=True, slots=True)
class Radius:
    """A radius with the text it was written as, since ``8/255`` reads better than 0.03137254901960784."""

    text: str
    value: float

    @classmethod
    def parse(cls, text: str, *, argument: str = "--eps") -> "Radius":
        """Read a decimal number or a fraction.

        Raises:
            RequestError: not a number, not finite, or negative.
        """
        written = text.strip()
        try:
            value = float(Fraction(written)) if "/" in written else float(written)
        except (ValueError, ZeroDivisionError, OverflowError):
            raise RequestError(
                f"{argument} {written!r} is not a number: write a decimal such as 0.5 or a fraction such as 8/255"
            ) from None
        if not math.isfinite(value) or value < 0:
            raise RequestError(f"{argument} {written!r} must be finite and not negative: write 0.5 or 8/255, say")
        return cls(written, value)

    def __str__(self) -> str:
        return self.text
