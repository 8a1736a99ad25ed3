"""Robust accuracies of B-cos networks and their baselines that can be trusted.

The public names are loaded when they are first used, so that importing the package does not import torch. They are
declared in ``__init__.pyi``, for type checkers and for this module alike.
"""

import ast
from importlib import import_module
from pathlib import Path
from typing import Any

from robustbench_bcos.core.version import VERSION as __version__

_HOMES = {
    alias.name: statement.module
    for statement in ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")).body
    if isinstance(statement, ast.ImportFrom)
    for alias in statement.names
}

__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
