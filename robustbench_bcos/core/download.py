"""Files from the web, resumed where they broke off.

A file that is on its way is ``FILE.partial``; ``FILE.partial.json`` holds what the server calls this version of it, so
that the rest of another version is never put behind the beginning of this one.
"""

import json
import shutil
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.message import Message
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO, Any, final
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from robustbench_bcos.core.disk import no_link, write_text
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.tables import read_json
from robustbench_bcos.core.version import VERSION

CHUNK = 1 << 18
TIMEOUT_SECONDS = 30.0
"""Of silence, after which a connection counts as lost."""

ATTEMPTS = 5
"""Connections in a row that may break without bringing anything."""

PAUSE_SECONDS = 1.0
"""Before the second of these attempts; twice as long before each further one."""

PASSING = (408, 429, 500, 502, 503, 504)
"""HTTP status codes worth retrying."""

LOCAL = ("127.0.0.1", "localhost")

Report = Callable[[int, int | None], None]
"""Called with the bytes that are here and with how many there will be, where the server says so."""


class BrokenConnection(Exception):
    """The server was reached and did not send everything; the next attempt may."""


def download(url: str, file: Path, report: Report, *, size: int | None = None) -> Path:
    """All of a file, as ``FILE.partial``; continues what an earlier attempt has left.

    Args:
        url: where it is.
        file: where it will lie.
        report: called with the progress.
        size: bytes, where the card or page states them.

    Raises:
        RequestError: the server cannot be reached, has no such file, keeps breaking off, or the disk is full.
    """
    partial, failures = file.with_name(f"{file.name}.partial"), 0
    while True:
        before = _size(partial)
        try:
            _continue(url, partial, report)
            break
        except BrokenConnection as error:
            failures = 0 if _size(partial) > before else failures + 1
            if failures == ATTEMPTS:
                raise RequestError(
                    f"{_host(url)} broke off after {_size(partial):,} bytes of {url} ({error}): repeat the command to "
                    "continue"
                ) from None
            time.sleep(PAUSE_SECONDS * 2**failures if failures else 0)
        except HTTPError as error:
            raise RequestError(
                f"{_host(url)} answers {error.code} {_reason(error)} to {url}: get the file from elsewhere and put it "
                f"at {file}"
            ) from None
        except URLError as error:
            raise RequestError(
                f"{_host(url)} cannot be reached ({_reason(error)}): on a machine that can, get {url}, and put it at "
                f"{file}"
            ) from None
    found = _size(partial)
    if size is not None and found != size:
        discard(partial)
        raise RequestError(f"{url} has {found:,} bytes and {size:,} are published: nothing is kept; try again later")
    return partial


def discard(partial: Path) -> None:
    """Delete a partial download."""
    partial.unlink(missing_ok=True)
    _version_file(partial).unlink(missing_ok=True)


@final
class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to encrypted addresses only, and from this machine to itself."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: Any,  # noqa: ANN401 (the response, which is not the file that the base class calls it)
        code: int,
        msg: str,
        headers: Any,  # noqa: ANN401 (as the base class has them)
        newurl: str,
    ) -> urllib.request.Request | None:
        new, old = urlsplit(newurl), urlsplit(req.full_url)
        if new.scheme != "https" and not (new.scheme == "http" and new.hostname in LOCAL and old.hostname in LOCAL):
            fp.close()
            raise RequestError(
                f"{req.full_url} leads on to {new.scheme}://{new.hostname}, which is not encrypted: get the file from "
                "elsewhere"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _continue(url: str, partial: Path, report: Report) -> None:
    """One connection, from where the last one broke off to the end of the file.

    Raises:
        BrokenConnection: the end was not reached.
    """
    request = _request(url, partial)
    try:
        with urllib.request.build_opener(_SafeRedirects).open(request, timeout=TIMEOUT_SECONDS) as response:
            _receive(response, partial, url, report)
    except HTTPError as error:
        error.close()
        _judge_status(error, partial)
    except URLError as error:
        # A server that does not answer at all is not tried five times: that would take minutes.
        if isinstance(error.reason, ConnectionResetError):
            raise BrokenConnection(_reason(error)) from None
        raise
    except (HTTPException, ConnectionError, TimeoutError) as error:
        raise BrokenConnection(str(error) or type(error).__name__) from None


def _request(url: str, partial: Path) -> urllib.request.Request:
    """For all of a file, or for the rest of the version that a part is here of."""
    headers = {"User-Agent": f"robustbench_bcos/{VERSION}"}
    begun, version = _size(partial), _version(partial, url)
    if begun and version is not None:
        headers |= {"Range": f"bytes={begun}-", "If-Range": version}
    elif begun:
        discard(partial)
    return urllib.request.Request(url, headers=headers)


def _judge_status(error: HTTPError, partial: Path) -> None:
    """Return if everything is here, and raise what is to be done about it otherwise."""
    begun = _size(partial)
    if error.code == 416 and begun:
        # Status 416: the part is as long as the file, so it is either complete or of another file.
        if error.headers.get("Content-Range", "").rpartition("/")[2] == str(begun):
            return
        discard(partial)
        raise BrokenConnection("the file has become shorter")
    if error.code in PASSING:
        raise BrokenConnection(f"{error.code} {error.reason}")
    raise error


def _receive(response: HTTPResponse, partial: Path, url: str, report: Report) -> None:
    if response.headers.get_content_type() == "text/html":
        raise RequestError(f"{url} is a web page and no file of weights: open it in a browser, and get the file there")
    first = _first_byte(response.headers) if response.status == 206 else 0
    if response.status == 206 and (first, _version_in(response.headers)) != (_size(partial), _version(partial, url)):
        discard(partial)
        raise BrokenConnection("the server sent another part than the one that was requested")
    length = response.headers.get("Content-Length")
    total = None if length is None else first + int(length)
    _check_space(partial, total)
    with _appended(partial, first) as stream:
        if not first:
            # Only after the old part is deleted: bytes of two versions are never joined.
            _keep_version(partial, url, response.headers)
        report(first, total)
        done = first
        while chunk := response.read(CHUNK):
            _write(stream, chunk, partial)
            done += len(chunk)
            report(done, total)
    if total is not None and done < total:
        raise BrokenConnection("the connection was lost")


def _first_byte(headers: Message) -> int:
    """Of ``Content-Range: bytes 7-9/10`` the 7; -1 where there is no such header."""
    first = headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
    return int(first) if first.isdigit() else -1


@contextmanager
def _appended(partial: Path, first: int) -> Iterator[IO[bytes]]:
    try:
        stream = no_link(partial).open("ab" if first else "wb")
    except OSError as error:
        raise RequestError(f"{partial} cannot be written ({error.strerror}): choose another folder") from None
    with stream:
        yield stream


def _write(stream: IO[bytes], chunk: bytes, partial: Path) -> None:
    try:
        stream.write(chunk)
        stream.flush()
    except OSError as error:
        raise RequestError(
            f"{partial} cannot be written ({error.strerror}): free some space, then repeat the command to continue"
        ) from None


def _check_space(partial: Path, total: int | None) -> None:
    needed = (total or 0) - _size(partial)
    free = shutil.disk_usage(partial.parent).free
    if needed > free:
        raise RequestError(
            f"{partial.parent} has {free:,} bytes free and {needed:,} are needed: free some space, or choose another "
            "folder"
        )


def _version_file(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.json")


def _keep_version(partial: Path, url: str, headers: Message) -> None:
    write_text(_version_file(partial), json.dumps({"url": url, "version": _version_in(headers)}))


def _version_in(headers: Message) -> str | None:
    tag = headers.get("ETag", "")
    # A weak tag does not promise equal bytes.
    return headers.get("Last-Modified") if not tag or tag.startswith("W/") else tag


def _version(partial: Path, url: str) -> str | None:
    """What the server called the version that the part is of; ``None`` if it cannot be continued."""
    try:
        content = read_json(_version_file(partial))
        return content["version"] if content["url"] == url else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def _host(url: str) -> str:
    return urlsplit(url).hostname or url


def _reason(error: URLError) -> str:
    reason = error.reason
    return str(getattr(reason, "strerror", None) or reason).partition("\n")[0]
