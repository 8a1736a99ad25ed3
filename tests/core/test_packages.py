"""Whether a package is there is asked without importing it, and never ends in an error of Python's."""

import sys
from types import ModuleType

import pytest

from robustbench_bcos.core.packages import find_package


class _Blocks:
    """An importer that raises for what it blocks, as lazy importers and sandboxes do."""

    def find_spec(self, name: str, *_: object) -> None:
        if name == "scipy":
            raise ModuleNotFoundError(f"{name} is blocked")


def test_a_package_that_python_would_not_import_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", [_Blocks(), *sys.meta_path])
    monkeypatch.delitem(sys.modules, "scipy", raising=False)
    monkeypatch.setitem(sys.modules, "stands_for_nothing", None)
    for name in ("scipy", "no_such_package", "no_such_package.part", "stands_for_nothing"):
        assert find_package(name) is None


def test_a_package_is_found_and_so_is_what_stands_in_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    found = find_package("robustbench_bcos")
    assert found is not None
    assert found.origin is not None
    monkeypatch.setitem(sys.modules, "stand_in", ModuleType("stand_in"))
    assert find_package("stand_in") is not None
