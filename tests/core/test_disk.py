"""Files that are whole or not there, and what is said of disks and folders that refuse."""

import errno
import os
import secrets
from pathlib import Path
from typing import IO

import pytest
from torch import nn

from robustbench_bcos.core.disk import made, write_text, write_with
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.model_zoo.checkpoints.write import write_weights


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    for text in ("first\n", "ä, second\n"):
        write_text(tmp_path / "results.csv", text)
        assert content(tmp_path) == {"results.csv": text.encode()}


@pytest.mark.parametrize("broken", [False, True])
def test_a_link_planted_beside_a_file_is_not_followed(tmp_path: Path, broken: bool) -> None:
    (tmp_path / "run").mkdir()
    if not broken:
        (tmp_path / "elsewhere").write_text("precious")
    (tmp_path / "run/results.csv.partial").symlink_to(tmp_path / "elsewhere")
    write_text(tmp_path / "run/results.csv", "new\n")
    assert (tmp_path / "run/results.csv").read_text() == "new\n"
    assert (tmp_path / "elsewhere").exists() != broken
    assert broken or (tmp_path / "elsewhere").read_text() == "precious"


def test_a_link_under_the_temporary_name_itself_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "token_hex", lambda count: "guessed")
    (tmp_path / "results.csv.guessed.partial").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RequestError, match="cannot be written"):
        write_text(tmp_path / "results.csv", "new\n")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), ValueError(), OSError(errno.ENOSPC, "full")])
def test_an_interrupted_write_leaves_the_old_file_and_no_litter(tmp_path: Path, failure: BaseException) -> None:
    write_text(tmp_path / "net.ckpt", "old\n")

    def write(stream: IO[bytes]) -> None:
        stream.write(b"half of it")
        raise failure

    with pytest.raises((RequestError, KeyboardInterrupt, ValueError)):
        write_with(tmp_path / "net.ckpt", write)
    assert content(tmp_path) == {"net.ckpt": b"old\n"}


def test_a_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    write_text(tmp_path / "results.csv", "new\n")
    assert (tmp_path / "results.csv").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "is full: free some space, then repeat the command to continue"),
        (errno.EDQUOT, "is full: free some space, then repeat the command to continue"),
        (errno.EROFS, "cannot be written (Read-only file system): choose another folder"),
    ],
)
def test_a_disk_that_fails_half_way_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, said: str
) -> None:
    write_text(tmp_path / "results.csv", "old\n")

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(RequestError) as caught:
        write_text(tmp_path / "results.csv", "new\n")
    assert said in str(caught.value)
    assert content(tmp_path) == {"results.csv": b"old\n"}


def test_weights_on_a_full_disk_are_not_there_by_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(RequestError, match="is full: free some space"):
        write_weights(nn.Linear(2, 3), tmp_path / "net.safetensors")
    assert content(tmp_path) == {}


def test_a_folder_is_made_with_those_above_it(tmp_path: Path) -> None:
    assert made(tmp_path / "a" / "b") == made(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_a_folder_that_may_not_be_written_to_is_refused_before_anything_is_worked_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Permissions do not hold root back, and tests may be run as root.
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    with pytest.raises(RequestError, match=r"out cannot be written \(Permission denied\): choose another folder$"):
        made(tmp_path / "out")
