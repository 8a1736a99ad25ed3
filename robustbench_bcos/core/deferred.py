"""A module that is imported when something of it is used: a norm says how large the pixel range is without torch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any


class Deferred:
    """Stands for a module.

    Args:
        name: as in an import statement.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:  # noqa: ANN401 (whatever the module has)
        value = getattr(import_module(self._name), attribute)
        setattr(self, attribute, value)
        return value


if TYPE_CHECKING:
    import numpy as numpy
    import torch as torch
else:
    numpy, torch = Deferred("numpy"), Deferred("torch")
    """For modules that a run is read with, and requests are checked with, before anything is computed."""
