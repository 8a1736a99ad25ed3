"""Robust accuracies of B-cos networks and their baselines that can be trusted.

The public names are loaded when they are first used, so that importing the package does not import torch. They are
declared in ``__init__.pyi``, for type checkers and for this module alike, which imports nothing until it is asked for
one: the command line's process is to answer a signal as soon as it can.
"""

from robustbench_bcos.core.version import VERSION as __version__  # noqa: F401 (it is public)


def __getattr__(name: str) -> object:
    if name.startswith("_") and name != "__all__":
        # Python's own questions about the module.
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    homes = _homes()
    if name == "__all__":
        return ["__version__", *sorted(homes)]
    if name not in homes:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(homes[name]), name)


def __dir__() -> list[str]:
    return ["__version__", *sorted(_homes())]


def _homes() -> dict[str, str]:
    """The module of each public name."""
    import ast
    from pathlib import Path

    return {
        alias.name: statement.module or ""
        for statement in ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")).body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
