"""Options that fields of a table declare: the command line, Python signatures and the reference are made from them."""

import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.registry import unknown


@dataclass(frozen=True, kw_only=True)
class Option:
    """What a field says of itself, beside its type and its default: ``steps: Annotated[int, Option(...)] = 20``."""

    help: str
    """One sentence. ``{names}`` stands for the known names, and a parameter in backticks for its own spelling."""
    panel: str
    """The heading it is listed under."""
    default: str | None = ""
    """What holds without it, where the field's default does not say so; ``None`` says nothing."""
    names: Callable[[], Iterable[str]] | None = None
    """Asked again each time, because a plug-in may have added to a registry. Without it, those of a ``Literal``."""
    closed: bool = True
    """Whether nothing but ``names`` is accepted."""
    flag: str = ""
    """On the command line, where it is not ``--`` and the field's name."""
    in_memory: bool = True
    """Whether it makes sense for a model and images that are in memory."""
    of: str = ""
    """Where one choice alone reads it, and others refuse it: the name of that choice."""


@dataclass(frozen=True)
class Parameter:
    """A field of a table that is an option."""

    name: str
    option: Option
    field: FieldInfo = field(repr=False)

    @cached_property
    def type(self) -> Any:  # noqa: ANN401 (a type, or a Literal)
        """Of one value: without ``None``, and without the tuple where several can be given."""
        kind = _stated(self.field.annotation)
        return _bare(get_args(kind)[0]) if get_origin(kind) is tuple else kind

    @property
    def several(self) -> bool:
        """Whether it takes a list."""
        return get_origin(_stated(self.field.annotation)) is tuple

    @property
    def mapping(self) -> bool:
        """Whether it takes keys and values."""
        return get_origin(self.type) is dict

    @property
    def separable(self) -> bool:
        """Whether values of its list may be separated with commas, which paths may contain."""
        return self.several and self.type is not Path

    @property
    def names(self) -> tuple[str, ...]:
        """Values that are known by name."""
        if self.option.names is not None:
            return tuple(self.option.names())
        return get_args(self.type) if get_origin(self.type) is Literal else ()

    @property
    def flag(self) -> str:
        """How a command line spells it."""
        return self.option.flag or f"--{self.name.replace('_', '-')}"

    @property
    def default(self) -> str:
        """What holds where it is not given; empty where there is nothing to say."""
        value = self.field.get_default(call_default_factory=True)
        if self.option.default != "" or isinstance(value, bool | dict) or value is None:
            return self.option.default or ""
        return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)

    def help(self, spelled: Callable[[str], str]) -> str:
        """What it is for, and its default; ``spelled`` gives the spelling of other parameters."""
        text = self.option.help.replace("{names}", ", ".join(self.names))
        text += f" By default {self.default}." if self.default else ""
        return re.sub(r"`(\w+)`", lambda found: spelled(found[1]), text)


def parameters(table: type[BaseModel]) -> dict[str, Parameter]:
    """The fields of a table that are options, in the order of their panels."""
    found = [
        Parameter(name, option, info)
        for name, info in table.model_fields.items()
        for option in info.metadata
        if isinstance(option, Option)
    ]
    panels = list(dict.fromkeys(parameter.option.panel for parameter in found))
    return {parameter.name: parameter for parameter in sorted(found, key=lambda one: panels.index(one.option.panel))}


def check_in_memory(given: Iterable[str], taken: Collection[str], table: type[BaseModel], command: str) -> None:
    """See that a function on models and images in memory takes the options that it is given.

    Args:
        given: names of options.
        taken: names of those that it takes.
        table: whose fields are the options of the command.
        command: what has all of them.

    Raises:
        RequestError: it does not take one.
    """
    for name in given:
        if name in taken:
            continue
        if name not in parameters(table):
            raise unknown("option", name, taken)
        raise RequestError(
            f"{name} is about models and images that have names, and these are objects of this process, which no job "
            f"and no folder knows: leave it out, or give the command `{command}` the model as module:callable"
        )


def _stated(annotation: Any) -> Any:  # noqa: ANN401
    """A type without ``None``."""
    if get_origin(annotation) in (Union, UnionType):
        (annotation,) = (kind for kind in get_args(annotation) if kind is not type(None))
    return _bare(annotation)


def _bare(annotation: Any) -> Any:  # noqa: ANN401
    """A type without what ``Annotated`` adds to it."""
    return annotation.__origin__ if hasattr(annotation, "__metadata__") else annotation
