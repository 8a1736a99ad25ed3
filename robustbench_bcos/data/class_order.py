"""Which class is which output of a model: a list that says so, or else the order of the class folders' names."""

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustbench_bcos.core.disk import no_pipe
from robustbench_bcos.core.errors import RequestError

SHOWN = 5
"""Folders that a message names, of each order."""

FORM = (
    "give a text file with a name per line in the order of the model's outputs, or JSON such as "
    '{"0": "cat", "1": "dog"}'
)

NUMBERED = re.compile(r"(\D*)(\d+)(?:[._-].*|(\D*))")
"""``7``, ``class_7``, ``7.cat``: what is before the number, the number, and what it may be a part of a name with."""


@dataclass(frozen=True, kw_only=True)
class ClassOrder:
    """The classes of a model in the order of its outputs."""

    origin: str
    """Where it is from, as messages name it: ``classes FILE``, ``the card of model 'NAME'``."""
    names: tuple[str, ...]
    """One per output."""
    others: Mapping[str, int]
    """Further names of classes, such as WNIDs, and their outputs."""

    @classmethod
    def of(cls, origin: str, classes: Sequence[Sequence[str]]) -> "ClassOrder":
        """An order from one or more names of each class; the last is the one that is shown.

        Raises:
            RequestError: two classes have one name.
        """
        outputs: dict[str, int] = {}
        for output, names in enumerate(classes):
            for name in names:
                if outputs.setdefault(name, output) != output:
                    raise RequestError(
                        f"{origin} names {name!r} twice, as output {outputs[name]} and {output}: correct it"
                    )
        shown = tuple(names[-1] for names in classes)
        return cls(origin=origin, names=shown, others={name: outputs[name] for name in outputs.keys() - set(shown)})

    def labels(self, folders: Sequence[str]) -> dict[str, int]:
        """The output of each class folder: by its name, or, where all are numbers and no names, by its number.

        Raises:
            RequestError: a folder is not on the list.
        """
        outputs = {name: output for output, name in enumerate(self.names)} | dict(self.others)
        strangers = [name for name in folders if name not in outputs]
        if not strangers:
            return {name: outputs[name] for name in folders}
        if len(strangers) == len(folders) and all(name.isascii() and name.isdigit() for name in folders):
            numbers = {name: int(name) for name in folders}
            # 0 to the last: numbers that begin with 1, or two ways of writing one, tell no outputs.
            if len(set(numbers.values())) == len(folders) and max(numbers.values()) < len(self.names):
                return numbers
        near = difflib.get_close_matches(strangers[0], outputs, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else f" such as {self.names[0]!r}"
        raise RequestError(
            f"class folder {strangers[0]!r} is not among the {len(self.names)} classes of {self.origin}{hint}: give "
            "classes in the order of the model's outputs, named as the folders are"
        )


def read_class_order(file: Path) -> ClassOrder:
    """A file of class names: one a line, or as JSON a list, index to name (or names), or name to index.

    The ``config.json`` of a model of transformers will do, for its ``id2label``.

    Raises:
        RequestError: it cannot be read, is of another form, names a class twice, or leaves an output out.
    """
    origin = f"classes {file}"
    try:
        text = no_pipe(file).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise RequestError(f"{origin} cannot be read ({reason}): {FORM}") from None
    if text.lstrip().startswith(("{", "[")):
        try:
            listed = _of_json(json.loads(text))
        except RequestError as error:
            raise RequestError(f"{origin} {error}: {FORM}") from None
        except (ValueError, RecursionError):
            raise RequestError(f"{origin} is JSON of another form: {FORM}") from None
    else:
        listed = [[line.strip()] for line in text.splitlines() if line.strip()]
    if not listed:
        raise RequestError(f"{origin} is empty: {FORM}")
    return ClassOrder.of(origin, listed)


def _of_json(content: Any) -> list[list[str]]:  # noqa: ANN401 (any value of JSON)
    if isinstance(content, dict):
        # The configuration of a model of the transformers library.
        content = content.get("id2label", content)
    if isinstance(content, dict):
        if all(isinstance(value, int) and not isinstance(value, bool) for value in content.values()):
            # As torchvision's class_to_idx has it.
            pairs = [(index, name) for name, index in content.items()]
        else:
            pairs = [(int(index), name) for index, name in content.items()]
        by_index = dict(pairs)
        found = sorted(index for index, _ in pairs)
        if found != list(range(len(pairs))):
            raise RequestError(
                f"numbers outputs {_first(list(map(str, found)))}, and {len(pairs)} names are those of outputs 0 to "
                f"{len(pairs) - 1}, each once"
            )
        content = [by_index[index] for index in range(len(pairs))]
    listed = [[value] if isinstance(value, str) else value for value in content]
    if not all(isinstance(names, list) and names and all(isinstance(name, str) for name in names) for names in listed):
        raise ValueError("names are texts")
    return listed


def check_order(name: str, folders: Sequence[str]) -> None:
    """Refuse to number folders by their names where names are numbers that sort otherwise as text.

    Args:
        name: of the dataset.
        folders: sorted as text.

    Raises:
        RequestError: with both orders.
    """
    numbers = _numbers(folders)
    # Sorting leaves what is equal in its order.
    counted = sorted(folders, key=numbers.__getitem__) if numbers else list(folders)
    if counted != list(folders):
        raise RequestError(
            f"the class folders of {name} are numbered, and their order as text ({_first(folders)}) is not that of "
            f"their numbers ({_first(counted)}), so nothing tells which output of a model is which: give classes, a "
            "file with the folders' names, one a line, in the order of the model's outputs"
        )


def _numbers(folders: Sequence[str]) -> dict[str, float]:
    """The number of each folder; none where names are not one word, or none, with numbers."""
    try:
        return {folder: float(folder) for folder in folders}
    except ValueError:
        parts = {folder: NUMBERED.fullmatch(folder) for folder in folders}
    around = {None if part is None else (part[1], part[3]) for part in parts.values()}
    return {} if None in around or len(around) > 1 else {name: float(part[2]) for name, part in parts.items() if part}


def _first(names: Sequence[str]) -> str:
    return ", ".join([*names[:SHOWN], *(["..."] if len(names) > SHOWN else [])])
