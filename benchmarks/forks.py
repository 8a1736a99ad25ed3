"""Command lines, each in a process that is forked off this one: it has imported everything, so a start costs nothing.

A fork has none of the threads of its parent, so the parent computes nothing with torch.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

BUG = 70
"""Exit status of a process that ended in a traceback."""

INTERRUPTED = 130
"""Exit status of a command that a signal ended."""

SAID = ("said.out", "said.err")
NEVER = "Traceback (most recent call last)"

Work = Sequence[object] | Callable[[], None]
"""Arguments of the command line, or any other work."""


class Ended(NamedTuple):
    """A process: its exit status, negative for a signal, and what it said."""

    code: int
    out: str
    err: str

    @property
    def told(self) -> bool:
        """Whether it ended well, or in a sentence."""
        return self.code in (0, 1, 2, INTERRUPTED) and NEVER not in self.err and "\x1b" not in self.out + self.err

    @property
    def refused(self) -> bool:
        """Whether it ended in a sentence."""
        return self.told and self.code != 0


def warm_up() -> None:
    """Import what commands import."""
    import torch

    from robustbench_bcos.cli import VERBS

    torch.set_num_threads(1)
    modules = [f"cli.{verb}" for verb in VERBS]
    modules += ["__main__", "bench.runner", "reports.figures", "reports.learning", "reports.page", "reports.results"]
    modules += ["reports.robustbench", "reports.gate_formats", "training.workshop", "explanations", "data.opening"]
    for module in modules:
        import_module(f"robustbench_bcos.{module}")


def started(work: Work, place: Path, prepare: Callable[[], None] = lambda: None) -> int:
    """A process that works in a folder; gives its number.

    Args:
        work: what it does.
        place: its working folder, where what it says is kept.
        prepare: called in the process first.
    """
    if process := os.fork():
        return process
    code: object = BUG
    try:
        os.chdir(place)
        for number, name in enumerate(SAID, start=1):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.stdout = sys.__stdout__ = open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = sys.__stderr__ = open(2, "w", closefd=False)  # noqa: SIM115
        # A shell lets what runs in its background ignore it. Until a command has its own handlers, a signal ends it.
        signal.signal(signal.SIGINT, signal.default_int_handler if callable(work) else _ended)
        prepare()
        code = in_this_process(work if callable(work) else partial(_command_line, work))
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code if isinstance(code, int) else BUG)


def _ended(*_: object) -> None:
    os._exit(INTERRUPTED)


def _command_line(arguments: Sequence[object]) -> None:
    """With all that the process of a command does about signals and streams."""
    sys.argv = ["robustbench_bcos", *map(str, arguments)]
    from robustbench_bcos.__main__ import main

    main()


def in_this_process(work: Work) -> object:
    """Work; gives its exit status."""
    try:
        if callable(work):
            work()
        else:
            sys.argv = ["robustbench_bcos", *map(str, work)]
            from robustbench_bcos.cli import main

            main()
    except SystemExit as end:
        return end.code or 0
    return 0


def ended(process: int, place: Path) -> Ended:
    """Wait for a process."""
    _, status = os.waitpid(process, 0)
    said = [(place / name).read_text(errors="replace") if (place / name).exists() else "" for name in SAID]
    return Ended(os.waitstatus_to_exitcode(status), *said)


def call(work: Work, place: Path, prepare: Callable[[], None] = lambda: None) -> Ended:
    """Work, from its start to its end."""
    return ended(started(work, place, prepare), place)


def succeed(work: Work, place: Path, prepare: Callable[[], None] = lambda: None) -> Ended:
    """Work that nothing happens to.

    Raises:
        SystemExit: it failed, so that nothing can be measured.
    """
    outcome = call(work, place, prepare)
    if outcome.code:
        raise SystemExit(f"{work} failed: {outcome.err or outcome}")
    return outcome


def stopped_once(process: int, reached: Callable[[], bool]) -> bool:
    """Hold a process as soon as something is the case; ``False`` if it ended before."""
    while not reached():
        if os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return False
        time.sleep(0.002)
    os.kill(process, signal.SIGSTOP)
    return True


@contextlib.contextmanager
def mounted(place: Path, options: str, source: str = "tmpfs") -> Iterator[bool]:
    """Mount a file system of its own, or another folder, where this user may; says whether it is there."""
    kind = ["--bind"] if Path(source).is_dir() else ["-t", "tmpfs"]
    if not _mount(*kind, "-o", options, source, str(place)):
        yield False
        return
    try:
        # Linux takes options of such a mount in a second step only.
        yield kind != ["--bind"] or _mount("-o", f"remount,bind,{options}", str(place))
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def remounted(place: Path, options: str) -> None:
    """Change the size of what is mounted."""
    if not _mount("-o", f"remount,{options}", str(place)):
        raise SystemExit(f"{place} cannot be mounted with {options}")


def _mount(*arguments: str) -> bool:
    if shutil.which("mount") is None:
        return False
    return subprocess.run(["mount", *arguments], stderr=subprocess.DEVNULL, check=False).returncode == 0
