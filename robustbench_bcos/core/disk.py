"""Files that are never half there, on disks that may be full and in folders that may not be writable."""

import errno
import os
import re
import secrets
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout

from robustbench_bcos.core.errors import RequestError

ELSEWHERE = "choose another folder"


def write_text(file: Path, text: str) -> Path:
    """:func:`write_with` for text, in UTF-8."""
    return write_bytes(file, text.encode("utf-8"))


def write_bytes(file: Path, content: bytes) -> Path:
    """:func:`write_with` for bytes."""
    return write_with(file, lambda stream: stream.write(content))


def write_with(file: Path, write: Callable[[IO[bytes]], object]) -> Path:
    """Replace a file as a whole, so that no reader ever sees half of it; the old one stays where writing fails.

    Args:
        file: what to replace.
        write: called once with an open binary file, which lies in the same folder and then takes the file's place.

    Returns:
        The file.

    Raises:
        RequestError: the disk is full, or the folder is not writable.
    """
    # A name that nobody can guess, created exclusively: a link planted there is an error and is never followed.
    partial = file.with_name(f"{file.name}.{secrets.token_hex(8)}.partial")
    with disk_explained(file.parent):
        stream = partial.open("xb")
        try:
            with stream:
                write(stream)
            os.replace(partial, file)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    return file


def sweep(folder: Path, name: str = "*") -> None:
    """Remove what processes that were killed have left of files of a name, which nobody else may be writing.

    Args:
        folder: with the folders in it.
        name: of the files, or a pattern.
    """
    for litter in folder.rglob(f"{name}.{'[0-9a-f]' * 16}.partial"):
        litter.unlink(missing_ok=True)


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


def made_below(folder: Path, *names: str) -> Path:
    """:func:`made` for a folder inside one that the user has chosen, in which no folder may be a link.

    Raises:
        RequestError: one is, or cannot be made, or a file is in the way.
    """
    for name in names:
        folder = made(no_link(folder / name))
    return folder


def emptied(folder: Path, *, keep: Collection[str] = ()) -> Path:
    """Remove what is in a folder that this package has filled, but for some names; gives the folder back.

    Raises:
        RequestError: somebody works in it, or it cannot be changed.
    """
    if Path.cwd().resolve().is_relative_to(folder.resolve()) or (folder / ".git").exists():
        raise RequestError(f"{folder} is where you work, and nothing of it is removed: {ELSEWHERE}")
    with disk_explained(folder):
        for entry in folder.iterdir():
            if entry.name in keep:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
    return folder


def no_link(file: Path) -> Path:
    """Refuse to write through a link, which may have been planted in a folder to reach a file outside of it.

    Raises:
        RequestError: it is one.
    """
    if file.is_symlink():
        raise RequestError(f"{file} is a link, and nothing is written through links: remove it, or {ELSEWHERE}")
    return file


def no_pipe(file: Path) -> Path:
    """Refuse to read what never ends, or waits for a writer: opening a pipe that somebody has planted would hang.

    Raises:
        OSError: it is a pipe, a socket or a device.
    """
    if file.exists() and not (file.is_file() or file.is_dir()):
        raise OSError(errno.EINVAL, "It is a pipe or a device, and no file", str(file))
    return file


def slug(text: str) -> str:
    """Letters, digits, dots and dashes alone: as part of a file's name, no text leads out of its folder."""
    return re.sub(r"(?:[^A-Za-z0-9.+-]|\.\.)+", "-", text).strip("-")[:100]


@contextmanager
def held(
    lock_file: Path, *, busy: str = "", waiting: Callable[[], None] | None = None, remedy: str = ELSEWHERE
) -> Iterator[None]:
    """Keep other processes, and other threads, from the same work.

    Args:
        lock_file: made where it is missing, with the folders above it; it stays, because removing it would race.
        busy: what to say where another process holds it.
        waiting: called before waiting for that process instead.
        remedy: what to do if the folder cannot be written.

    Raises:
        RequestError: another process holds it, or the folder cannot be written.
    """
    with disk_explained(lock_file.parent, remedy):
        lock_file.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(no_link(lock_file))
        try:
            lock.acquire(blocking=False)
        except Timeout:
            if waiting is None:
                raise RequestError(busy) from None
            waiting()
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def is_held(lock_file: Path) -> bool:
    """Whether another process holds a lock of :func:`held`; nothing is written, so that archives can be asked."""
    try:
        import fcntl
    except ImportError:  # Windows, where a file that is locked cannot be read.
        return lock_file.exists() and not os.access(lock_file, os.R_OK)
    try:
        with lock_file.open("rb") as file:
            # Goes with the file; FileLock asks for the same kind of lock.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


@contextmanager
def disk_explained(folder: Path, remedy: str = ELSEWHERE) -> Iterator[None]:
    """Turn what a disk refuses into a request that can be repeated."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RequestError(
                f"the disk of {folder} is full: free some space, then repeat the command to continue"
            ) from None
        raise RequestError(f"{folder} cannot be written ({error.strerror}): {remedy}") from None
