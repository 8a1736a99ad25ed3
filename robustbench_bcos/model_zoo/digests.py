"""Digests of files, cached within a process, because a run loads each model several times."""

import hashlib
import os
import time
from pathlib import Path

from robustbench_bcos.core.disk import no_pipe
from robustbench_bcos.core.errors import RequestError

SETTLED_SECONDS = 2.0
"""A digest is cached if the file is older: a newer file may change within one tick of the file system's clock."""

_Identity = tuple[str, int, int, int]

_known: dict[_Identity, str] = {}


def sha256_of(file: Path) -> str:
    """Digest of a file's bytes.

    It is computed once in a process, unless the file's size, inode or time of change differ.

    Raises:
        RequestError: the file cannot be read.
    """
    try:
        with no_pipe(file).open("rb") as stream:
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
