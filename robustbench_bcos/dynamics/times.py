"""Points in time, and tolerances."""

import math
from collections.abc import Sequence
from itertools import pairwise

from robustbench_bcos.core.errors import RequestError


def check_times(times: Sequence[float]) -> None:
    """Refuse fewer than two times, and times that do not increase.

    Raises:
        RequestError: naming the first that does not.
    """
    if len(times) < 2:
        raise RequestError(f"times must be at least a start and an end, got {len(times)}: give two or more")
    for before, after in pairwise(times):
        if not (math.isfinite(before) and math.isfinite(after) and after > before):
            raise RequestError(f"times must increase, got {after:g} after {before:g}: sort them, each once")


def check_tolerance(name: str, value: object) -> None:
    """Refuse what no solver reaches.

    Raises:
        RequestError: it is not a positive number.
    """
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
        raise RequestError(
            f"{name} must be a positive number, got {value!r}: no solver reaches an error of 0; choose 1e-6, say"
        )
