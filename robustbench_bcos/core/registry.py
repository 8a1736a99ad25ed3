"""Named collections that are loud about duplicates and helpful about misses."""

import difflib
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache, cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pkgutil import iter_modules
from typing import Any, Generic, TypeVar, cast

from robustbench_bcos.core.errors import RequestError, named_reason_of

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


def as_known(name: str, known: Iterable[str]) -> str:
    """The known name that is written like this one but for capitals, ``_`` and ``-``: ``Linf``, ``L_inf``, ``PGD``.

    A name like none of them is given back as it is.
    """
    names = list(known)
    return name if name in names else {_plain(one): one for one in names}.get(_plain(name), name)


def _plain(name: str) -> str:
    # Grad-CAM++ is another method than Grad-CAM.
    return "".join(letter for letter in name.lower() if letter.isalnum() or letter == "+")


def _choice(name: str, names: list[str]) -> str:
    if len(names) <= LISTED:
        return ", ".join(names) or "nothing (none is known)"
    nearest = difflib.get_close_matches(name, names, n=NEAREST, cutoff=0.0)
    return f"{', '.join(nearest)} and {len(names) - len(nearest)} others"


@cache
def _installed(path: tuple[str, ...]) -> Any:  # noqa: ANN401 (the class differs from Python 3.11 to 3.12)
    """All entry points on a path: to look for them takes longer than to make the help of a verb."""
    return entry_points()


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
        taken = self._holder_of(name, entry)
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
            self._import(name)
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*self.packaged, *self._points, *self._entries)))

    def __contains__(self, name: object) -> bool:
        return name in self._entries or name in self.packaged or name in self._points

    def __len__(self) -> int:
        return len(list(iter(self)))

    @cached_property
    def packaged(self) -> tuple[str, ...]:
        """Names of the modules of this registry's own package, sorted; nothing is imported for this."""
        if self._package is None:
            return ()
        # Listed and not imported, because an entry may take seconds to import.
        found = find_spec(self._package)
        if found is None or found.submodule_search_locations is None:
            raise ImportError(f"{self._package} is not a package, so it holds no {self.kind}")
        modules = (module.name for module in iter_modules(found.submodule_search_locations))
        return tuple(sorted(name for name in modules if not name.startswith("_")))

    @cached_property
    def _points(self) -> dict[str, list[EntryPoint]]:
        """Entry points by name: more than one under a name is refused when it is used, not when names are listed."""
        points: dict[str, list[EntryPoint]] = {}
        for point in _installed(tuple(sys.path)).select(group=self._group) if self._group else ():
            points.setdefault(point.name, []).append(point)
        return points

    def _holder_of(self, name: str, entry: T) -> object | None:
        """What has a name already; ``None`` where only the module that now registers ``entry`` itself has it."""
        if name in self._entries:
            return self._entries[name]
        if name in self.packaged:
            return None if f"{self._package}.{name}" in sys.modules else self[name]
        if name not in self._points:
            return None
        point = self._points[name][0]
        if point.module not in sys.modules:
            return self[name]
        if not point.attr:  # a module that registers itself is doing so now
            return None
        offered = getattr(sys.modules[point.module], point.attr, entry)
        return None if offered is entry else offered

    def _import(self, name: str) -> None:
        points = self._points.get(name, [])
        offers = [f"{self._package}.{name}"] * (name in self.packaged) + [point.value for point in points]
        if not offers:
            raise unknown(self.kind, name, self)
        if len(offers) > 1:
            raise RequestError(f"{self.kind} {name!r} is offered twice, by {' and '.join(offers)}: uninstall one")
        if points:
            self._load(points[0])
            return
        import_module(offers[0])
        if name not in self._entries:
            raise ImportError(f"module {offers[0]} does not register the {self.kind} {name!r}")

    def _load(self, point: EntryPoint) -> None:
        """Import what an installed package offers, which may register itself or leave that to us."""
        try:
            entry = point.load()
        except Exception as error:
            raise RequestError(
                f"{self.kind} {point.name!r} of {point.value} cannot be imported ({named_reason_of(error)}): repair or "
                "uninstall it"
            ) from error
        self._entries.setdefault(point.name, entry)
