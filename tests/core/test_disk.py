"""Files that are whole or not there, and what is said of disks and folders that refuse."""

import errno
import os
import secrets
from pathlib import Path
from threading import Event, Thread
from typing import IO

import pytest
from torch import nn

from robustbench_bcos.core.disk import held, is_held, made, write_text, write_with
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


class TestHeld:
    def test_the_second_waits_for_the_first(self, tmp_path: Path) -> None:
        order: list[str] = []
        waiting, inside = Event(), Event()

        def second() -> None:
            inside.wait()
            with held(tmp_path / "lock", waiting=waiting.set):
                order.append("second")

        thread = Thread(target=second)
        thread.start()
        with held(tmp_path / "lock"):
            inside.set()
            assert waiting.wait(10)
            order.append("first")
        thread.join()
        assert order == ["first", "second"]

    def test_the_second_is_refused_where_it_is_not_to_wait_and_may_come_back(self, tmp_path: Path) -> None:
        refused = pytest.raises(RequestError, match=r"^in use: wait$")
        with held(tmp_path / "lock"), refused, held(tmp_path / "lock", busy="in use: wait"):
            pass
        with held(tmp_path / "lock", busy="in use: wait"):
            pass

    def test_whether_it_is_held_can_be_asked_without_writing(self, tmp_path: Path) -> None:
        lock = tmp_path / "lock"
        assert not is_held(lock)
        assert not lock.exists()
        with held(lock):
            assert is_held(lock)
        lock.chmod(0o444)
        assert not is_held(lock)

    def test_a_folder_that_cannot_be_made_is_one_sentence(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        refused = pytest.raises(RequestError, match=r"cannot be written \((Not a directory|File exists)\): set CACHE")
        with refused, held(tmp_path / "file/lock", remedy="set CACHE"):
            pass

    def test_a_planted_link_is_not_followed(self, tmp_path: Path) -> None:
        (tmp_path / "precious").write_text("precious")
        (tmp_path / "lock").symlink_to(tmp_path / "precious")
        with pytest.raises(RequestError, match="lock is a link, and nothing is written through links: remove it"):
            held(tmp_path / "lock").__enter__()
        assert (tmp_path / "precious").read_text() == "precious"
