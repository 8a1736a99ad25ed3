"""Digests of files, each taken once: a model is loaded when it is checked and again when its turn comes."""

import hashlib
import os
import time
from pathlib import Path

from robustbench_bcos.core.errors import RequestError

SETTLED_SECONDS = 2.0
"""A file younger than this may be written again within the same tick of the file system's clock."""

_Identity = tuple[str, int, int, int]

_known: dict[_Identity, str] = {}


def sha256_of(file: Path) -> str:
    """Digest of a file's bytes.

    It is not taken twice in one process, unless the file's size, inode or time of change differ.

    Raises:
        RequestError: the file cannot be read.
    """
    try:
        with file.open("rb") as stream:
            status = os.fstat(stream.fileno())
            identity = (str(file.absolute()), status.st_ino, status.st_size, status.st_mtime_ns)
            if identity in _known:
                return _known[identity]
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise RequestError(f"weights {file} cannot be read ({error.strerror}): check the path") from None
    if time.time() - status.st_mtime > SETTLED_SECONDS:
        _known[identity] = digest
    return digest
