"""Reading TOML tables into checked, frozen objects."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Generic, TypeGuard, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from robustbench_bcos.core.disk import no_pipe
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.registry import unknown

LARGEST = 2**53
"""Of whole numbers: tensors, stores and other programs' JSON hold those up to here exactly."""


class Table(BaseModel):
    """An immutable record that refuses keys it does not know, and numbers that nothing can count to."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, defer_build=True)

    @field_validator("*", mode="after")
    @classmethod
    def _countable(cls, value: Any) -> Any:  # noqa: ANN401 (whatever a field was declared as)
        values = value if isinstance(value, tuple) else (value,)
        if any(isinstance(one, int) and abs(one) > LARGEST for one in values):
            raise PydanticCustomError("too_large", f"a whole number must be at most {LARGEST}")
        return value


T = TypeVar("T", bound=Table)


def parse_table(kind: type[T], values: Mapping[str, Any], origin: str) -> T:
    """Check values against a kind of table.

    Raises:
        RequestError: naming ``origin``, the key, and what was expected of it.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise unknown(f"key of {origin}", key, _known_keys(kind, first["loc"])) from None
        got = "" if first["type"] == "missing" else f", got {first['input']!r}"
        message = first["msg"][0].lower() + first["msg"][1:]
        raise RequestError(f"{origin}: {key}{': ' if key else ''}{message}{got}") from None


def _known_keys(kind: type[BaseModel], place: Sequence[int | str]) -> list[str]:
    """Keys of the table that a key is in, written as its place is: ``weights.file``."""
    *outer, _ = (str(part) for part in place)
    for part in outer:
        annotation = kind.model_fields[part].annotation
        # A table that may be left out is a union of its kind and None.
        kind = next(inner for inner in (annotation, *get_args(annotation)) if _is_table(inner))
    return [".".join([*outer, key]) for key in kind.model_fields]


def _is_table(annotation: Any) -> TypeGuard[type[BaseModel]]:  # noqa: ANN401 (whatever a field was declared as)
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


DOTS = 1000
"""In a line of TOML, at most: a key such as ``a.b.c`` is a table in a table."""


def read_table(kind: type[T], file: Path | Traversable) -> T:
    """Read one TOML file.

    Raises:
        RequestError: the file cannot be read, is not TOML, or does not fit.
    """
    try:
        text = (no_pipe(file) if isinstance(file, Path) else file).read_text(encoding="utf-8")
        # tomllib takes time quadratic in the dots of a key.
        if max((line.count(".") for line in text.splitlines()), default=0) > DOTS:
            raise RecursionError
        values = tomllib.loads(text)
    except RecursionError:
        raise RequestError(
            f"{file} is not a readable TOML file (it is nested too deeply): mend or replace it"
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RequestError(f"{file} is not a readable TOML file ({error}): mend or replace it") from None
    return parse_table(kind, values, str(file))


def read_json(file: Path) -> Any:  # noqa: ANN401 (any value of JSON)
    """Read one JSON file, of which nothing is known.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not JSON, or is nested deeper than Python's stack.
    """
    try:
        return json.loads(no_pipe(file).read_text(encoding="utf-8-sig"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


@dataclass(frozen=True, kw_only=True)
class PackagedTables(Generic[T]):
    """TOML files that ship in a folder of a package, by name; a path to a file of one's own serves as well."""

    noun: str
    """What one of them is called in a message."""
    kind: type[T]
    package: str
    folder: str

    def names(self) -> list[str]:
        """Names of the files that ship."""
        files = [file.name for file in self._files().iterdir()]
        return sorted(name.removesuffix(".toml") for name in files if name.endswith(".toml"))

    def load(self, name_or_file: str) -> T:
        """Read one of them.

        Raises:
            RequestError: there is none of that name, or it does not fit.
        """
        if name_or_file.endswith(".toml"):
            return read_table(self.kind, Path(name_or_file))
        if name_or_file not in self.names():
            raise unknown(self.noun, name_or_file, self.names())
        return read_table(self.kind, self._files() / f"{name_or_file}.toml")

    def _files(self) -> Traversable:
        return resources.files(self.package) / self.folder
