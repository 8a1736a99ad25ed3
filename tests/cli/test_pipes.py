"""What is read by name is a file: a pipe in its place, which would be waited for, is refused in a sentence."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.command_line import refusal


@pytest.fixture
def pipe(here: Path) -> Iterator[Path]:
    """Whoever opens it is woken after a while, so that a fault fails this test and no other."""
    (here / "folder").mkdir()
    os.mkfifo(here / "folder" / "pipe.toml")

    def wake(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, wake)
    signal.alarm(60)
    yield here / "folder" / "pipe.toml"
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(
    "line",
    [
        "run --zoo folder",
        "run --suite folder/pipe.toml",
        "run --weights folder/pipe.toml --architecture resnet8",
        "run --dataset folder:folder --classes folder/pipe.toml --eps 0.5",
        "run --dataset imagenet --data-dir folder --image-list folder/pipe.toml",
        "train folder/pipe.toml",
        "convert folder/pipe.toml --architecture resnet8 --licence MIT --out there --image-size 8",
    ],
)
def test_a_pipe_is_refused(line: str, pipe: Path) -> None:
    assert "is a pipe or a device, and no file" in refusal(*line.split())
