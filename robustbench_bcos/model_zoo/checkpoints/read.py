"""Reading weights files: safetensors, or what ``torch.save`` wrote, whatever the file is called.

Nothing in a file is ever executed. Tensors and plain values are read; whatever else training scripts save next to
weights, such as their configuration, becomes placeholders that do nothing. Weights that cannot be had without running
something, and programs that act on the machine, are refused by name.
"""

import pickle
import re
import warnings
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from robustbench_bcos.core.errors import RequestError, reason_of
from robustbench_bcos.model_zoo.checkpoints.container import container_of

ACTING = (
    "builtins.eval",
    "builtins.exec",
    "builtins.__import__",
    "io.",
    "commands.",
    "shutil.",
    "importlib.",
    "runpy.",
)
"""Globals that no record of a training needs, and programs do, as pickles name them (``commands`` for ``subprocess``);
torch refuses those of ``os`` and ``sys`` itself."""

PREFIX = "placeholder."
"""Before a global's name in that of the class that stands for it."""

MANY = 200
"""Different globals in one file, above which it is no checkpoint."""


class Placeholder(list[object]):
    """Stands for a global that is not imported, and for all that is made with it.

    Calling, building, filling or instantiating it gives itself and does nothing. It is a list because torch appends to
    no other object.
    """

    def __new__(cls, *_: object) -> "Placeholder":
        """Make one; where one is taken for a class and instantiated, as torch does, return it itself."""
        return cls if isinstance(cls, Placeholder) else super().__new__(cls)

    def __init__(self, *_: object) -> None:
        """Keep nothing."""
        super().__init__()

    def __call__(self, *_: object) -> "Placeholder":
        """Return the placeholder instead of the record."""
        return self

    def __setstate__(self, state: object) -> None:
        """Keep nothing."""

    def append(self, _: object) -> None:
        """Keep nothing."""

    def extend(self, _: object) -> None:
        """Keep nothing."""

    def __hash__(self) -> int:  # type: ignore[override] # a list has none
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other


class FileContent(NamedTuple):
    """The object saved in a file, and the kind of file."""

    value: object
    container: Literal["safetensors", "torch"]
    left_out: tuple[str, ...] = ()
    """Globals that it names beside tensors and plain values; placeholders stand for them."""


def read_content(file: Path) -> FileContent:
    """Read a file by its content, not by its suffix.

    Raises:
        RequestError: it is not a weights file, is truncated, or needs more than tensors and plain values.
    """
    container = container_of(file)
    if container.kind == "safetensors":
        return FileContent(_read_safetensors(file, container.size), "safetensors")
    if container.kind == "archive":
        _check_archive(file)
    return _read_torch(file)


def _check_archive(file: Path) -> None:
    """Compare the parts of an archive with their checksums; torch does not."""
    try:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError, RuntimeError) as error:
        damaged = reason_of(error)
    if damaged is not None:
        raise RequestError(f"weights {file} are damaged (the checksum of {damaged!r} does not fit): get the file again")


def _read_safetensors(file: Path, size: int) -> object:
    try:
        return load_file(str(file))
    except (SafetensorError, OSError) as error:
        raise RequestError(
            f"weights {file} are not a whole safetensors file ({error}; {size} bytes): get the file again"
        ) from None


def _read_torch(file: Path) -> FileContent:
    stand_ins: dict[str, Callable[..., object]] = {}
    while True:
        try:
            return FileContent(_loaded(file, stand_ins), "torch", tuple(stand_ins))
        except pickle.UnpicklingError as error:
            if len(stand_ins) > MANY or not _stand_in(str(error), stand_ins):
                raise programs_in(file, _needed(str(error))) from None
        except Exception as error:  # torch raises nearly anything over a damaged file.
            if "TorchScript" in str(error):
                raise RequestError(
                    f"weights {file} are a TorchScript program, and programs are not run: save the state dict of the "
                    "model it was made from"
                ) from None
            raise RequestError(
                f"weights {file} are not a whole torch checkpoint ({reason_of(error)}): get the file again"
            ) from None


def _loaded(file: Path, stand_ins: Mapping[str, Callable[..., object]]) -> object:
    """What torch reads, with something inert in place of some globals."""
    named: list[Callable[..., object] | tuple[Callable[..., object], str]]
    named = [(stand_in, name) for name, stand_in in stand_ins.items()]
    classes = [type(stand_in) for stand_in in stand_ins.values() if isinstance(stand_in, Placeholder)]
    # Opened here, because given a path torch goes by the file's name.
    with file.open("rb") as stream, warnings.catch_warnings(), torch.serialization.safe_globals([*named, *classes]):
        # torch warns of pickles that it then refuses; the refusal is enough.
        warnings.simplefilter("ignore")
        return torch.load(stream, map_location="cpu", weights_only=True)


def _stand_in(message: str, stand_ins: dict[str, Callable[..., object]]) -> bool:
    """Let something inert stand for the global that torch would not read, if there is such a thing."""
    unknown = re.search(r"Unsupported global: GLOBAL (\S+)", message)
    filled = re.search(rf"SETITEMS? for dict.* but got <class '{PREFIX}(\S+)'>", message)
    if filled is not None and filled[1] in stand_ins:
        # It is a dictionary with other methods, whose entries may be weights.
        stand_ins[filled[1]] = OrderedDict
        return True
    if unknown is None:
        return False
    name = unknown[1] if "." in unknown[1] else f"builtins.{unknown[1]}"
    if name.startswith(ACTING):
        return False
    made: type[Placeholder] = type(name, (Placeholder,), {"__module__": PREFIX.removesuffix(".")})
    stand_ins[name] = made()
    return True


def programs_in(file: Path, needed: str) -> RequestError:
    """The error for a file whose weights cannot be read without running what it names."""
    what = f" (they need {needed})" if needed else ""
    return RequestError(
        f"weights {file} hold more than tensors and plain values{what}, and programs in a checkpoint are not run: "
        "where they were made, torch.save(model.state_dict(), 'weights.pth') saves what is needed"
    )


def _needed(message: str) -> str:
    """The global that torch would not read."""
    found = re.search(r"GLOBAL (\S+)", message)
    return found[1] if found else ""
