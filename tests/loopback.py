"""A web server of this machine that behaves as badly as it is told to."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


@dataclass
class Site:
    """What is served under any path, and how."""

    content: bytes
    ranges: bool = True
    version: str | None = '"one"'
    """The ETag."""
    modified: str | None = None
    length: bool = True
    """Whether the size is told beforehand."""
    dies_after: list[int] = field(default_factory=list)
    """Bytes after which the connection is cut, for each of the first requests."""
    statuses: list[int] = field(default_factory=list)
    """Answers to the first requests that are not the file."""
    redirects: dict[str, str] = field(default_factory=dict)
    """Where a path leads to."""
    kind: str = "application/octet-stream"
    pause: float = 0.0
    """Seconds before each kilobyte."""
    shift: int = 0
    """By how many bytes a part begins before the place that was asked for."""
    heedless: bool = False
    """Whether a part of any version is sent, whichever was asked for."""
    asked: list[dict[str, str]] = field(default_factory=list)
    """Path and headers of each request."""
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/weights.pt"


@contextmanager
def served(site: Site) -> Iterator[Site]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.asked.append({"path": self.path, **self.headers})
            # A client may leave before it has everything.
            with suppress(ConnectionError):
                _answer(self, site)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        site.port = server.server_address[1]
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield site
        finally:
            server.shutdown()
            thread.join()


def _answer(handler: BaseHTTPRequestHandler, site: Site) -> None:
    if handler.path in site.redirects:
        handler.send_response(302)
        handler.send_header("Location", site.redirects[handler.path])
        handler.end_headers()
    elif site.statuses:
        handler.send_error(site.statuses.pop(0))
    else:
        _send(handler, site)


def _send(handler: BaseHTTPRequestHandler, site: Site) -> None:
    first = _first_byte(handler, site)
    if first >= len(site.content) > 0 and first:
        handler.send_response(416)
        handler.send_header("Content-Range", f"bytes */{len(site.content)}")
        handler.end_headers()
        return
    first -= site.shift if first else 0
    body = site.content[first:]
    handler.send_response(206 if first else 200)
    if first:
        handler.send_header("Content-Range", f"bytes {first}-{len(site.content) - 1}/{len(site.content)}")
    for name, value in (("ETag", site.version), ("Last-Modified", site.modified), ("Content-Type", site.kind)):
        if value is not None:
            handler.send_header(name, value)
    if site.length:
        handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    dies = site.dies_after.pop(0) if site.dies_after else None
    for start in range(0, len(body), 1024):
        if dies is not None and start >= dies:
            return
        time.sleep(site.pause)
        handler.wfile.write(body[start : start + 1024 if dies is None else min(start + 1024, dies)])


def _first_byte(handler: BaseHTTPRequestHandler, site: Site) -> int:
    asked = handler.headers.get("Range")
    current = {site.version, site.modified} - {None}
    other = handler.headers.get("If-Range") not in current and not site.heedless
    if asked is None or not site.ranges or other:
        return 0
    return int(asked.removeprefix("bytes=").removesuffix("-"))
