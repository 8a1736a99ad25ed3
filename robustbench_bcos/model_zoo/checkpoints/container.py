"""Which kind of weights file a file is, by how it begins. Importing this imports no torch."""

import zipfile
from pathlib import Path
from typing import Literal, NamedTuple

from robustbench_bcos.core.disk import no_pipe
from robustbench_bcos.core.errors import RequestError

HEAD = 512
"""Bytes from which the kind of a file is recognised."""

NO_WEIGHTS = (
    (b"<", "are a web page or a server's message", "download the file itself, not the page that shows it"),
    (b"version https://git-lfs", "are a pointer of Git LFS", "`git lfs pull` gets the file itself"),
    (b"\x1f\x8b", "are compressed", "unpack them with gunzip or tar first"),
)
"""Files that are often found instead of weights: how they begin, what they are, and the remedy."""


class Container(NamedTuple):
    """How a file holds its weights."""

    kind: Literal["safetensors", "archive", "pickle"]
    size: int
    """In bytes."""


def container_of(file: Path) -> Container:
    """Recognise a file by its content, not by its suffix.

    Raises:
        RequestError: it cannot be read, is no weights file, or lacks its end.
    """
    try:
        with no_pipe(file).open("rb") as stream:
            head, size = stream.read(HEAD), file.stat().st_size
    except OSError as error:
        raise RequestError(f"weights {file} cannot be read ({error.strerror}): check the path") from None
    for magic, found, remedy in NO_WEIGHTS:
        if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(magic):
            raise RequestError(f"weights {file} {found}: {remedy}")
    # safetensors: eight bytes for the length of a JSON header, then the header.
    if head[8:9] == b"{":
        return Container("safetensors", size)
    if not head.startswith((b"PK", b"\x80")):
        raise RequestError(
            f"weights {file} are neither a whole safetensors file nor a whole torch checkpoint ({size} bytes that "
            f"begin with {head[:8]!r}): get the file again"
        )
    if not head.startswith(b"PK"):
        return Container("pickle", size)
    if not zipfile.is_zipfile(file):
        raise RequestError(
            f"weights {file} are not a whole torch checkpoint (the end of the archive is missing after {size} bytes): "
            "get the file again"
        )
    return Container("archive", size)
