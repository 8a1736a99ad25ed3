"""Numbers as people write them: epsilons and step sizes, in units of the pixel range [0, 1]."""

import math
from dataclasses import dataclass
from fractions import Fraction

from robustbench_bcos.core.errors import RequestError


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number with the text it was written as, since ``8/255`` reads better than 0.03137254901960784."""

    text: str
    value: float

    @classmethod
    def of(cls, written: "Quantity | str | float", *, name: str = "eps") -> "Quantity":
        """Read a number, a decimal or a fraction; a quantity is passed through.

        Args:
            written: as given on a command line, in a suite or from Python.
            name: of the parameter, for the message.

        Raises:
            RequestError: not a number, not finite, or negative.
        """
        if isinstance(written, Quantity):
            return written
        text = str(written).strip()
        try:
            value = float(Fraction(text)) if "/" in text else float(text)
        except (ValueError, ZeroDivisionError, OverflowError):
            raise RequestError(
                f"{name} {text!r} is not a number: write a decimal such as 0.5 or a fraction such as 8/255"
            ) from None
        if not math.isfinite(value) or value < 0:
            raise RequestError(f"{name} {text!r} must be finite and not negative: write 0.5 or 8/255, say")
        return cls(text, value)

    def __str__(self) -> str:
        return self.text
