"""Digests: what hashlib says, taken once for a file that rests, and again for one that changes."""

import hashlib
import os
import time
from pathlib import Path

import pytest

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.model_zoo import digests
from robustbench_bcos.model_zoo.digests import sha256_of


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with every digest that is really taken."""
    calls: list[int] = []
    take = hashlib.file_digest

    def counted(*arguments: object) -> object:
        calls.append(1)
        return take(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(digests.hashlib, "file_digest", counted)
    return calls


def age(file: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(file, (then, then))


def test_the_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"abc")
    # FIPS 180-4, example of one block.
    assert sha256_of(file) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_file_that_rests_is_read_once(tmp_path: Path, taken: list[int]) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"abc")
    age(file, 60)
    assert sha256_of(file) == sha256_of(file)
    assert len(taken) == 1


@pytest.mark.parametrize("change", ["later", "longer", "replaced"])
def test_a_file_that_changes_is_read_again(tmp_path: Path, taken: list[int], change: str) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"abc")
    age(file, 60)
    before, stamp = sha256_of(file), file.stat().st_mtime
    if change == "replaced":
        other = tmp_path / "y"
        other.write_bytes(b"xyz")
        other.replace(file)
    else:
        file.write_bytes(b"xyz" if change == "later" else b"abcd")
    if change == "later":
        age(file, 30)
    else:
        os.utime(file, (stamp, stamp))
    assert sha256_of(file) == hashlib.sha256(file.read_bytes()).hexdigest() != before
    assert len(taken) == 2


def test_a_file_just_written_is_read_every_time(tmp_path: Path) -> None:
    file = tmp_path / "x"
    for content in (b"abc", b"xyz"):
        file.write_bytes(content)
        os.utime(file, (file.stat().st_atime, int(time.time())))
        assert sha256_of(file) == hashlib.sha256(content).hexdigest()


def test_what_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"cannot be read \(No such file or directory\): check the path$"):
        sha256_of(tmp_path / "x")
    with pytest.raises(RequestError, match=r"cannot be read \(Is a directory\): check the path$"):
        sha256_of(tmp_path)
