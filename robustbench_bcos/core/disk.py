"""Writing files that are never half there, on disks that may be full and in folders that may not be writable."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from robustbench_bcos.core.errors import RequestError


def write_text(file: Path, text: str) -> None:
    """Replace a file as a whole, so that nobody ever reads half of it.

    Raises:
        RequestError: the disk is full, or the folder is not writable.
    """
    write_bytes(file, text.encode("utf-8"))


def write_bytes(file: Path, content: bytes) -> Path:
    """Replace a file as a whole, so that nobody ever reads half of it; gives the file back.

    Raises:
        RequestError: the disk is full, or the folder is not writable.
    """
    with disk_explained(file.parent):
        partial = file.with_name(file.name + ".partial")
        try:
            partial.write_bytes(content)
            os.replace(partial, file)
        except OSError:
            partial.unlink(missing_ok=True)
            raise
    return file


def made(folder: Path) -> Path:
    """Make a folder, with those above it, or find that it may be written to; gives it back.

    Raises:
        RequestError: that is not allowed, or a file is in the way.
    """
    with disk_explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return folder


@contextmanager
def disk_explained(folder: Path) -> Iterator[None]:
    """Turn what a disk refuses into a request that can be repeated."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RequestError(
                f"the disk of {folder} is full: free some space, then repeat the command to continue"
            ) from None
        raise RequestError(f"{folder} cannot be written ({error.strerror}): choose another folder") from None
