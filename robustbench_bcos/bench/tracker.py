"""Sends a finished run to an experiment tracker. The tracker's own environment variables say where to."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.packages import find_package

PROJECT = "robustbench_bcos"
"""Project or experiment where the environment names none."""


@dataclass(frozen=True, kw_only=True)
class Logged:
    """A finished run, as trackers take it."""

    folder: Path
    key: str
    """The same for the same request, so that a run that is repeated need not appear twice."""
    parameters: Mapping[str, str]
    """What was asked for, and by row whether its number can be trusted and why not."""
    metrics: Mapping[str, float]
    """By row and column: ``digits-natural/l2 0.5 pgd/robust_accuracy_worst``."""
    files: Sequence[Path]

    @property
    def name(self) -> str:
        """What the run is called."""
        return self.folder.resolve().name


class AbstractTracker(ABC):
    """A client of a tracker.

    Attributes:
        library: the module that it needs.
    """

    name: ClassVar[str]
    library: ClassVar[str]

    def check(self) -> None:
        """See that the library is there, before anything is attacked; it is not imported.

        Raises:
            RequestError: it is not installed.
        """
        if find_package(self.library) is None:
            raise RequestError(
                f"log {self.name} needs {self.library}, which is not installed: pip install {self.library} (the extra "
                f"{self.name} of this package)"
            )

    @property
    def client(self) -> Any:  # noqa: ANN401 (a module)
        """The library."""
        return import_module(self.library)

    @abstractmethod
    def log(self, run: Logged) -> None:
        """Send a run."""
