"""Packages that need not be installed: whether they are, without importing them."""

import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec


def find_package(name: str) -> ModuleSpec | None:
    """Where a package is, or ``None`` where Python would not import it.

    Python's own function raises where an importer blocks a package, where the parent of a dotted name is missing, and
    where something without a file stands in for a module.
    """
    try:
        return find_spec(name)
    except ImportError:
        return None
    except ValueError:
        return ModuleSpec(name, None) if name in sys.modules else None
