"""Named collections that are loud about duplicates and helpful about misses."""

import difflib
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pkgutil import iter_modules
from typing import Generic, TypeVar, cast

from robustbench_bcos.core.errors import RequestError

T = TypeVar("T")
E = TypeVar("E")

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
    """A mapping from name to entry. Names are known without importing anything; an entry is imported when it is used.

    Entries come from three places: modules of a package (the module's name is the entry's), entry points of installed
    packages, and whatever registers itself when it is imported.

    Args:
        kind: what an entry is called in a message.
        package: import path of the package whose modules each register one entry under their own name. Modules whose
            names begin with an underscore are none.
        group: entry points through which installed packages add entries.
        instances: whether entries are objects and not classes: of a class that is registered, one is made.
    """

    def __init__(
        self, kind: str, *, package: str | None = None, group: str | None = None, instances: bool = False
    ) -> None:
        self.kind = kind
        self._package = package
        self._group = group
        self._instances = instances
        self._entries: dict[str, T] = {}

    def register(self, name: str, entry: T) -> None:
        """Add an entry; a class learns its name as ``name``.

        Raises:
            ValueError: the name is taken; both parties are named.
        """
        taken = self._entries.get(name)
        if taken is None and name in self._modules and not _defined_in(entry, f"{self._package}.{name}"):
            taken = self[name]
        if taken is not None:
            raise ValueError(f"{self.kind} {name!r} is already registered as {taken!r}, not {entry!r}")
        if isinstance(entry, type):
            entry.name = name  # type: ignore[attr-defined] # classes of registries declare it
            self._entries[name] = entry() if self._instances else entry
        else:
            self._entries[name] = entry

    def registered(self, name: str) -> Callable[[E], E]:
        """Decorator form of :meth:`register`."""

        def decorate(entry: E) -> E:
            self.register(name, cast(T, entry))
            return entry

        return decorate

    def __getitem__(self, name: str) -> T:
        if name not in self._entries:
            if name in self._modules:
                import_module(f"{self._package}.{name}")
            elif name in self._points:
                self._load(self._points[name])
        if name not in self._entries:
            raise unknown(self.kind, name, self)
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*self._modules, *self._points, *self._entries)))

    def __contains__(self, name: object) -> bool:
        return name in self._entries or name in self._modules or name in self._points

    def __len__(self) -> int:
        return len(list(iter(self)))

    @cached_property
    def _modules(self) -> tuple[str, ...]:
        if self._package is None:
            return ()
        # Listed and not imported, because an entry may take seconds to import.
        found = find_spec(self._package)
        places = [] if found is None else found.submodule_search_locations
        return tuple(sorted(module.name for module in iter_modules(places) if not module.name.startswith("_")))

    @cached_property
    def _points(self) -> dict[str, EntryPoint]:
        return {} if self._group is None else {point.name: point for point in entry_points(group=self._group)}

    def _load(self, point: EntryPoint) -> None:
        """Import what an installed package offers, which may register itself or leave that to us."""
        try:
            entry = point.load()
        except Exception as error:
            raise RequestError(
                f"{self.kind} {point.name!r} of {point.value} cannot be imported ({error}): repair or uninstall it"
            ) from error
        if point.name not in self._entries:
            self.register(point.name, entry)


def _defined_in(entry: object, module: str) -> bool:
    """Whether a module is where an entry, or the class of an entry, was defined."""
    return module in (getattr(entry, "__module__", None), type(entry).__module__)
