"""Named collections that are loud about duplicates and helpful about misses."""

import difflib
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from robustbench_bcos.core.errors import RequestError

T = TypeVar("T")

LISTED = 24
"""Names that a message has room for; of more, it names the nearest."""

NEAREST = 8


def unknown(kind: str, name: str, known: Iterable[str]) -> RequestError:
    """The error for a name that is not among ``known``, with the nearest one as a suggestion."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return RequestError(f"unknown {kind} {name!r}: {hint}choose from {_choice(name, names)}")


def _choice(name: str, names: list[str]) -> str:
    if len(names) <= LISTED:
        return ", ".join(names) or "nothing (none is known)"
    nearest = difflib.get_close_matches(name, names, n=NEAREST, cutoff=0.0)
    return f"{', '.join(nearest)} and {len(names) - len(nearest)} others"


class Registry(Generic[T]):
    """A mapping from name to entry that is filled once, at import, and then only read."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str, entry: T) -> None:
        """Add an entry.

        Raises:
            ValueError: the name is taken; both parties are named.
        """
        if name in self._entries:
            raise ValueError(f"{self.kind} {name!r} is already registered as {self._entries[name]!r}, not {entry!r}")
        self._entries[name] = entry

    def registered(self, name: str) -> Callable[[T], T]:
        """Decorator form of :meth:`register`."""

        def decorate(entry: T) -> T:
            self.register(name, entry)
            return entry

        return decorate

    def __getitem__(self, name: str) -> T:
        if name not in self._entries:
            raise unknown(self.kind, name, self._entries)
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __len__(self) -> int:
        return len(self._entries)
