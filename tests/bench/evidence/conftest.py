"""Checks that a test registers are forgotten after it."""

import sys
from collections.abc import Iterator

import pytest

from robustbench_bcos.bench.evidence import CHECKS


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A copy of the checks that are known; files that register some are read anew."""
    monkeypatch.setattr(CHECKS, "_entries", dict(CHECKS._entries))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("robustbench_bcos_plugin_"):
            del sys.modules[name]
