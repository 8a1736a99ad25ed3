"""The command line, called in this process as a user calls it in a shell."""

import sys
from collections.abc import Iterable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

from robustbench_bcos.cli import main


class Outcome(NamedTuple):
    """What a command left behind in the shell."""

    code: int
    out: str
    err: str


def call(*arguments: object) -> Outcome:
    """Carry out one command line; an exception that the user would see as a traceback passes through."""
    argv = ["robustbench_bcos", *map(str, arguments)]
    code: object = 0
    with patch.object(sys, "argv", argv), redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
    assert isinstance(code, int)
    return Outcome(code, out.getvalue(), err.getvalue())


def succeed(*arguments: object) -> str:
    """Standard output of a command that must not fail."""
    outcome = call(*arguments)
    assert outcome.code == 0, outcome.err
    return outcome.out


def refusal(*arguments: object) -> str:
    """The one line a refused command prints: on standard error, with exit status 2 and nothing on standard output."""
    outcome = call(*arguments)
    assert outcome.code == 2, outcome
    assert outcome.out == ""
    assert outcome.err.startswith("error: ")
    assert outcome.err.endswith("\n")
    assert outcome.err.count("\n") == 1
    return outcome.err.removeprefix("error: ").rstrip("\n")


def same_bytes(folder: Path, whole: Path, names: Iterable[str]) -> None:
    """Fail at the first file that two runs do not have alike."""
    for name in names:
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
