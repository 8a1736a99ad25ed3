"""Checks that a test registers are forgotten after it."""

import pytest

from robustbench_bcos.bench.evidence import CHECKS


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of the checks that are known."""
    monkeypatch.setattr(CHECKS, "_entries", dict(CHECKS._entries))
