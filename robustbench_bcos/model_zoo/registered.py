"""Architectures by name, as far as they are known without torch, which their modules need."""

import json
import sys
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.registry import unknown

GROUP = "robustbench_bcos.architectures"
"""Entry points through which installed packages add architectures."""

FILE = Path(__file__).with_name("architectures.json")
"""The arguments of each that comes with the package: ``python -m tools.architectures`` writes it."""


def check_registered(name: str, arguments: Iterable[str]) -> None:
    """Refuse an architecture that there is not, or an argument that it does not take.

    Does nothing where the registry has been imported, by a plug-in say: building the network asks the registry itself.

    Raises:
        RequestError: as the registry says it.
    """
    if f"{__package__}.architectures" in sys.modules:
        return
    packaged, others = _packaged(), {point.name for point in entry_points(group=GROUP)}
    if name not in {*packaged, *others}:
        raise unknown("architecture", name, {*packaged, *others})
    if name in packaged:
        check_arguments(name, arguments, packaged[name])


def check_arguments(name: str, arguments: Iterable[str], taken: Collection[str]) -> None:
    """Refuse an argument that an architecture does not take.

    Raises:
        RequestError: with those that it takes.
    """
    for key in arguments:
        if key not in taken:
            raise RequestError(
                f"architecture {name!r} takes no argument {key!r}: it takes {', '.join(taken) or 'none'}"
            )


@cache
def _packaged() -> Mapping[str, list[str]]:
    found: dict[str, list[str]] = json.loads(FILE.read_text(encoding="utf-8"))
    return found
