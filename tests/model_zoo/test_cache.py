"""The cache: where it is, and that a file in it is what was published, or what was used first."""

import errno
import hashlib
import json
import os
from pathlib import Path

import pytest
from platformdirs import user_cache_dir

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.model_zoo.cache import DigestRecord, check_digest, weights_folder

URL = "https://example.org/weights.pt"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "weights.pt"
    file.write_bytes(b"weights")
    return file


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_the_cache_is_where_the_system_has_caches_unless_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ROBUSTBENCH_BCOS_CACHE", raising=False)
    assert weights_folder() == Path(user_cache_dir("robustbench_bcos")) / "weights"
    monkeypatch.setenv("ROBUSTBENCH_BCOS_CACHE", str(tmp_path))
    assert weights_folder() == tmp_path / "weights"
    monkeypatch.setenv("ROBUSTBENCH_BCOS_CACHE", "~/mine")
    assert weights_folder() == Path.home() / "mine/weights"


@pytest.mark.parametrize("digits", [None, 8, 10, 63, 64])
def test_the_digest_is_checked_as_far_as_it_is_published_and_recorded_in_full(file: Path, digits: int | None) -> None:
    whole = digest(b"weights")
    published = None if digits is None else whole[:digits]
    assert check_digest(file, url=URL, published=published) == whole
    assert json.loads((file.parent / "weights.pt.json").read_text()) == {"url": URL, "sha256": whole}
    assert DigestRecord.of(file) == DigestRecord(URL, whole)
    assert sorted(found.name for found in file.parent.iterdir()) == ["weights.pt", "weights.pt.json"]


@pytest.mark.parametrize("digits", [8, 10, 64])
def test_another_digest_than_the_published_is_refused_and_not_recorded(file: Path, digits: int) -> None:
    published = digest(b"other")[:digits]
    with pytest.raises(RequestError) as caught:
        check_digest(file, url=URL, published=published)
    assert str(caught.value) == (
        f"weights {file} have SHA-256 {digest(b'weights')}, which does not begin with the published {published}: "
        "delete the file and fetch it again"
    )
    assert DigestRecord.of(file) is None


@pytest.mark.parametrize("digits", [None, 0], ids=["nothing published", "a prefix that fits both"])
def test_another_digest_than_that_of_the_first_use_is_refused(file: Path, digits: int | None) -> None:
    published = None if digits is None else ""
    check_digest(file, url=URL, published=published)
    file.write_bytes(b"changed")
    with pytest.raises(RequestError) as caught:
        check_digest(file, url=URL, published=published)
    assert str(caught.value) == (
        f"weights {file} have SHA-256 {digest(b'changed')}, and on first use it was {digest(b'weights')}: "
        "get the former file back, or delete its record (.json) if you trust the new one"
    )
    DigestRecord.file_of(file).unlink()
    assert check_digest(file, url=URL, published=published) == digest(b"changed")


def test_a_file_that_was_fetched_from_elsewhere_is_refused(file: Path) -> None:
    check_digest(file, url=URL, published=None)
    with pytest.raises(
        RequestError, match=r"recorded as coming from https://example.org/weights.pt, and the card names"
    ):
        check_digest(file, url="https://example.org/other.pt", published=None)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"url": "x"}', "\x00"])
def test_a_damaged_record_is_told(file: Path, content: str) -> None:
    DigestRecord.file_of(file).write_text(content)
    with pytest.raises(
        RequestError, match=r"weights\.pt\.json, the record of .* cannot be read: delete both files and"
    ):
        check_digest(file, url=URL, published=None)


def test_a_cache_that_cannot_be_written_serves_all_the_same(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    # Permissions do not hold root back, and tests may be run as root.
    monkeypatch.setattr(os, "replace", refuse)
    assert check_digest(file, url=URL, published=None) == digest(b"weights")
    assert DigestRecord.of(file) is None
