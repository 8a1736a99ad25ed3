"""Numbers as people write them: epsilons and step sizes, in units of the pixel range [0, 1]."""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from robustbench_bcos.core.errors import RequestError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number with the text it was written as, since ``8/255`` reads better than 0.03137254901960784."""

    text: str
    value: float

    @classmethod
    def of(cls, written: "Quantity | str | float | ArrayLike", *, name: str = "eps") -> "Quantity":
        """Read a number, a decimal or a fraction; a quantity is passed through.

        Args:
            written: as given on a command line, in a suite or from Python, where it may be a scalar of NumPy or torch.
            name: of the parameter, for the message.

        Raises:
            RequestError: not a number, not finite, or negative.
        """
        if isinstance(written, Quantity):
            return written
        text = str(as_written(written)).strip()
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


def as_written(given: Any) -> Any:  # noqa: ANN401 (values before they are checked)
    """Python's values of an array or a tensor: of lower precision as it prints, 0.1 and not 0.10000000149011612."""
    if not hasattr(given, "tolist"):
        return given
    values, precision = given.tolist(), str(given.dtype).removeprefix("torch.")
    if precision not in {"float16", "float32"}:
        return values
    import numpy as np

    lower = getattr(np, precision)
    shortest = [float(str(lower(value))) for value in (values if isinstance(values, list) else [values])]
    return shortest if isinstance(values, list) else shortest[0]
