"""Commands of this package, and of another build of it in a folder, each in a process of its own.

Nothing here imports torch: a process that does passes its memory on to the peaks of those it starts.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pairs import Turns

HERE = Path(__file__).parent.parent

THREE = ("natural", "bcos-b2", "adv-l2")
SEVEN = (*THREE, "adv-linf", "bcos-b1.25", "bcos-b2.5", "bcos-adv-l2")
"""The digits models that both builds have."""

MEBIBYTE = 2**20
UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes of what the system calls one of peak memory."""


class Spent(NamedTuple):
    """What a process took, those that it started and waited for included."""

    processor: float
    """Seconds."""
    clock: float
    """Seconds."""
    peak_mib: float
    """Of the largest of them."""


def taken_by(line: Sequence[str], *, expected: int = 0, **how: Any) -> Spent:  # noqa: ANN401 (as Popen takes it)
    """By a process of its own, whose standard output nobody reads.

    Raises:
        SystemExit: it ended with another status than expected.
    """
    began = time.perf_counter()
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, **how)
    _, status, usage = os.wait4(process.pid, 0)
    clock = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != expected:
        raise SystemExit(f"{' '.join(line)}: exit status {process.returncode}")
    return Spent(usage.ru_utime + usage.ru_stime, clock, usage.ru_maxrss * UNIT / MEBIBYTE)


def by_python(build: Path, *arguments: str, expected: int = 0) -> Spent:
    """By Python with these arguments and one thread, for which the package is that of a build."""
    environment = os.environ | {"PYTHONPATH": str(build.absolute()), "OMP_NUM_THREADS": "1"}
    silent = subprocess.DEVNULL if expected else None
    # Python looks for packages in the working folder first.
    return taken_by([sys.executable, *arguments], expected=expected, stderr=silent, env=environment, cwd=build)


def compile_files(build: Path) -> None:
    """As installing it does: where Python is kept from writing bytecode, every start would compile the package."""
    subprocess.run([sys.executable, "-m", "compileall", "-q", str(build / "robustbench_bcos")], check=True)


def of_command(build: Path, arguments: Sequence[str], *, expected: int = 0) -> Spent:
    """By a command of a build."""
    return by_python(build, "-m", "robustbench_bcos", *arguments, expected=expected)


def command(build: Path, *arguments: str) -> float:
    """Processor seconds of a command of a build."""
    return of_command(build, arguments).processor


def in_turns(ours: Callable[[], float], theirs: Callable[[], float], pairs: int) -> Turns:
    """What two builds spend, as they say it."""
    turns = Turns([], [])
    for _ in range(pairs):
        turns.ours.append(ours())
        turns.theirs.append(theirs())
    return turns
