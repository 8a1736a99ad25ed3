"""What everything promises that refuses a request: one sentence, with its remedy."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from robustbench_bcos.core.errors import RequestError


def refused(attempt: Callable[..., object], *arguments: Any, **options: Any) -> str:
    """The one sentence that a request is refused with; its remedy stands after a colon, or it says what must be."""
    with pytest.raises(RequestError) as caught:
        attempt(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert re.search(r": [a-z`\d-]|must be|did you mean", message), f"no remedy: {message}"
    return message
