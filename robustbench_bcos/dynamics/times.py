"""Points in time."""

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
