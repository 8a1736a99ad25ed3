"""Fetching weights into the cache: by one process at a time, checked before they get their final name."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from robustbench_bcos.core.disk import held
from robustbench_bcos.core.download import Report, discard, download
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.model_zoo.cache import VARIABLE, DigestRecord
from robustbench_bcos.model_zoo.cards import Entry
from robustbench_bcos.model_zoo.digests import sha256_of


def fetch_weights(entry: Entry, report: Report, waiting: Callable[[], None]) -> str:
    """The weights of a card, fetched unless they are here; gives their whole SHA-256.

    Args:
        entry: any card.
        report: called with the progress.
        waiting: called when another process is fetching the same file.

    Raises:
        RequestError: the download fails, or the digest is not the card's; then no file is left under the final name.
    """
    url, file = entry.card.weights.url, entry.weights_file
    if url is None or entry.is_here:
        return entry.check_weights()
    lock = file.with_name(f"{file.name}.lock")
    with held(lock, waiting=waiting, remedy=f"set {VARIABLE} to a folder that can be"):
        if file.is_file():
            return entry.check_weights()
        partial = download(url, file, report, size=entry.card.weights.size)
        digest = sha256_of(partial)
        try:
            _check(digest, url, entry.card.weights.sha256, file)
        except RequestError:
            discard(partial)
            raise
        partial.replace(file)
        discard(partial)
        with suppress(RequestError):
            # Of a full disk the first use will speak, which records as well.
            DigestRecord(url, digest).write(file)
        return digest


def _check(digest: str, url: str, published: str | None, file: Path) -> None:
    if published is not None and not digest.startswith(published):
        raise RequestError(
            f"{url} has SHA-256 {digest}, which does not begin with the published {published}: nothing is kept; try "
            "again later, or ask its authors"
        )
    record = DigestRecord.of(file)
    if record is not None and record.url == url and record.sha256 != digest:
        raise RequestError(
            f"{url} has SHA-256 {digest}, and on first use it was {record.sha256}: nothing is kept; delete "
            f"{DigestRecord.file_of(file)} if you trust the new file"
        )
