"""Reading weights files: safetensors, or what ``torch.save`` wrote, whatever the file is called.

Nothing in a file is ever executed. Tensors and plain values are read; records that training scripts save next to
weights (:data:`RECORDS`) become placeholders that do nothing; anything else is refused by its name.
"""

import pickle
import re
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from robustbench_bcos.core.errors import RequestError, reason_of

HEAD = 512
"""Bytes from which the kind of a file is recognised."""

_NO_WEIGHTS = (
    (b"<", "are a web page or a server's message", "download the file itself, not the page that shows it"),
    (b"version https://git-lfs", "are a pointer of Git LFS", "`git lfs pull` gets the file itself"),
    (b"\x1f\x8b", "are compressed", "unpack them with gunzip or tar first"),
)
"""Files that are often found instead of weights: how they begin, what they are, and the remedy."""

_NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")
_DILL = ("_create_cell", "_create_function", "_get_attr", "_import_module", "_load_type")
RECORDS = (
    # Learning rates, best accuracies and losses that training scripts computed with NumPy.
    *(f"{module}.{name}" for module in _NUMPY for name in ("scalar", "_reconstruct")),
    "numpy.dtype",
    "numpy.ndarray",
    # The command line that a script was called with.
    "argparse.Namespace",
    "cox.utils.Parameters",
    *(f"{module}.{name}" for module in ("pathlib", "pathlib._local") for name in ("Path", "PosixPath", "WindowsPath")),
    # Functions as dill saved them in 2019, which some of MadryLab's published files contain.
    *(f"dill.{module}.{name}" for module in ("_dill", "dill") for name in _DILL),
    "builtins.__main__",
)
"""Globals that a checkpoint may name, although they are neither tensors nor plain values."""


class Placeholder:
    """Stands for a record that is not read. Calling, building or instantiating it gives itself and does nothing."""

    def __new__(cls, *_: object) -> "Placeholder":
        """Return the only instance."""
        return _PLACEHOLDER

    def __call__(self, *_: object) -> "Placeholder":
        """Return the placeholder instead of the record."""
        return self

    def __setstate__(self, state: object) -> None:
        """Keep nothing."""


_PLACEHOLDER: Placeholder = object.__new__(Placeholder)


class FileContent(NamedTuple):
    """The object saved in a file, and the kind of file."""

    value: object
    container: Literal["safetensors", "torch"]


def read_content(file: Path) -> FileContent:
    """Read a file by its content, not by its suffix.

    Raises:
        RequestError: it is not a weights file, is truncated, or needs more than tensors and plain values.
    """
    head, size = _head(file)
    for magic, found, remedy in _NO_WEIGHTS:
        if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(magic):
            raise RequestError(f"weights {file} {found}: {remedy}")
    # safetensors: eight bytes for the length of a JSON header, then the header.
    if head[8:9] == b"{":
        return FileContent(_read_safetensors(file, size), "safetensors")
    if not head.startswith((b"PK", b"\x80")):
        raise RequestError(
            f"weights {file} are neither a whole safetensors file nor a whole torch checkpoint ({size} bytes that "
            f"begin with {head[:8]!r}): get the file again"
        )
    if head.startswith(b"PK") and not zipfile.is_zipfile(file):
        raise RequestError(
            f"weights {file} are not a whole torch checkpoint (the end of the archive is missing after {size} bytes): "
            "get the file again"
        )
    if head.startswith(b"PK"):
        _check_archive(file)
    return FileContent(_read_torch(file), "torch")


def _check_archive(file: Path) -> None:
    """Compare the parts of an archive with their checksums; torch does not."""
    try:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError, RuntimeError) as error:
        damaged = reason_of(error)
    if damaged is not None:
        raise RequestError(f"weights {file} are damaged (the checksum of {damaged!r} does not fit): get the file again")


def _head(file: Path) -> tuple[bytes, int]:
    try:
        with file.open("rb") as stream:
            return stream.read(HEAD), file.stat().st_size
    except OSError as error:
        raise RequestError(f"weights {file} cannot be read ({error.strerror}): check the path") from None


def _read_safetensors(file: Path, size: int) -> object:
    try:
        return load_file(str(file))
    except (SafetensorError, OSError) as error:
        raise RequestError(
            f"weights {file} are not a whole safetensors file ({error}; {size} bytes): get the file again"
        ) from None


def _read_torch(file: Path) -> object:
    allowed: list[Callable[..., object] | tuple[Callable[..., object], str]] = [Placeholder]
    allowed += [(_PLACEHOLDER, name) for name in RECORDS]
    try:
        # Opened here, because given a path torch goes by the file's name.
        with file.open("rb") as stream, warnings.catch_warnings(), torch.serialization.safe_globals(allowed):
            # torch warns of pickles that it then refuses; the refusal is enough.
            warnings.simplefilter("ignore")
            return torch.load(stream, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise RequestError(
            f"weights {file} hold more than tensors and plain values{_needed(str(error))}, and programs in a "
            "checkpoint are not run: where they were made, torch.save(model.state_dict(), 'weights.pth') saves what "
            "is needed"
        ) from None
    except Exception as error:  # torch raises nearly anything over a damaged file.
        if "TorchScript" in str(error):
            raise RequestError(
                f"weights {file} are a TorchScript program, and programs are not run: save the state dict of the "
                "model it was made from"
            ) from None
        raise RequestError(
            f"weights {file} are not a whole torch checkpoint ({reason_of(error)}): get the file again"
        ) from None


def _needed(message: str) -> str:
    """The global that torch would not read."""
    found = re.search(r"GLOBAL (\S+)", message)
    return f" (they need {found[1]})" if found else ""
