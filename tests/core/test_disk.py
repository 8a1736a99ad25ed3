"""Files that are whole or not there, and what is said of disks and folders that refuse."""

import errno
import os
from pathlib import Path

import pytest
from torch import nn

from robustbench_bcos.core.disk import made, write_text
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.model_zoo.checkpoints.write import write_weights


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    for text in ("first\n", "ä, second\n"):
        write_text(tmp_path / "results.csv", text)
        assert content(tmp_path) == {"results.csv": text.encode()}


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
