"""The cache of fetched weights, and the digest that each file must have.

``ROBUSTBENCH_BCOS_CACHE`` names the cache folder; by default it is the operating system's folder for caches.
A model's weights are in ``weights/NAME``, next to a record of their origin and whole digest. A card may state the
digest, its first digits, or neither: on first use the whole digest is recorded, and enforced from then on.
"""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from platformdirs import user_cache_path

from robustbench_bcos.core.disk import write_text
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.core.tables import read_json
from robustbench_bcos.model_zoo.digests import sha256_of

VARIABLE = "ROBUSTBENCH_BCOS_CACHE"


def weights_folder() -> Path:
    """The folder of fetched weights, which need not exist."""
    given = os.environ.get(VARIABLE)
    return (Path(given).expanduser() if given else user_cache_path("robustbench_bcos")) / "weights"


class DigestRecord(NamedTuple):
    """Origin and digest of a fetched file."""

    url: str
    sha256: str

    @staticmethod
    def file_of(weights: Path) -> Path:
        """Path of a file's record."""
        return weights.with_name(f"{weights.name}.json")

    @classmethod
    def of(cls, weights: Path) -> "DigestRecord | None":
        """The record of a file; ``None`` before its first use.

        Raises:
            RequestError: the record is damaged.
        """
        file = cls.file_of(weights)
        try:
            content = read_json(file)
            return cls(str(content["url"]), str(content["sha256"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            raise RequestError(
                f"{file}, the record of the digest of {weights.name}, cannot be read: delete both files and fetch again"
            ) from None

    def write(self, weights: Path) -> None:
        """Keep the record beside a file.

        Raises:
            RequestError: the disk is full, or the folder is not writable.
        """
        write_text(self.file_of(weights), json.dumps(self._asdict(), indent=2) + "\n")


def check_digest(file: Path, *, url: str, published: str | None) -> str:
    """The whole SHA-256 of a fetched file, after comparing it with the published and the recorded one.

    Args:
        file: the file to check.
        url: its origin according to the card.
        published: its digest or the first digits of it; ``None`` if nothing is published.

    Raises:
        RequestError: the digest differs from either, or the file was fetched from another URL.
    """
    record, found = DigestRecord.of(file), sha256_of(file)
    if published is not None and not found.startswith(published):
        raise RequestError(
            f"weights {file} have SHA-256 {found}, which does not begin with the published {published}: "
            "delete the file and fetch it again"
        )
    if record is not None and record.url != url:
        raise RequestError(
            f"weights {file} were recorded as coming from {record.url}, and the card names {url}: "
            "delete the file and its record (.json), and fetch again"
        )
    if record is not None and record.sha256 != found:
        raise RequestError(
            f"weights {file} have SHA-256 {found}, and on first use it was {record.sha256}: get the former file back, "
            "or delete its record (.json) if you trust the new one"
        )
    if record is None:
        # A cache that is shared and cannot be written is used as it is.
        with suppress(RequestError):
            DigestRecord(url, found).write(file)
    return found
