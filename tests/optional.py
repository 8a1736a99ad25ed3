"""Packages that may be missing where the tests run."""

import warnings
from typing import Any

import pytest


def importorskip_quietly(name: str) -> Any:
    """A module of MadryLab's package: its docstrings hold escapes that Python warns of when it first compiles them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name)
