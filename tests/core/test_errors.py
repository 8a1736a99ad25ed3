"""Other people's errors in one line."""

import pytest

from robustbench_bcos.core.errors import named_reason_of, reason_of


@pytest.mark.parametrize(
    ("error", "reason", "named"),
    [
        (ValueError("\n too large \r\nand so on\n"), "too large", "ValueError: too large"),
        (KeyError("eps"), "'eps'", "KeyError: 'eps'"),
        (KeyError(), "KeyError", "KeyError"),
        (ValueError(" \n"), "ValueError", "ValueError"),
        (SyntaxError("invalid syntax", ("nets.py", 3, 1, "a b")), "invalid syntax", "SyntaxError: invalid syntax"),
    ],
)
def test_the_reason_is_the_first_line_or_the_type(error: Exception, reason: str, named: str) -> None:
    assert reason_of(error) == reason
    assert named_reason_of(error) == named
