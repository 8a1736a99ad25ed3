"""The process of the command line: interruptions at any time, and streams that take nothing."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from robustbench_bcos.core.version import VERSION

ROOT = Path(__file__).parents[2]
FULL = Path("/dev/full")

pytestmark = pytest.mark.usefixtures("interruptible")


def start(*arguments: object, **streams: Any) -> "subprocess.Popen[str]":
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "robustbench_bcos", *map(str, arguments)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
    return subprocess.Popen(line, env=environment, text=True, **streams)


def ended(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.mark.parametrize(
    ("module", "sent"),
    [
        ("robustbench_bcos.cli", "SIGINT"),
        ("typer", "SIGTERM"),
        ("robustbench_bcos.cli.models", "SIGINT"),
        ("rich.table", "SIGTERM"),
    ],
)
def test_an_interruption_while_something_is_imported_is_not_a_traceback(module: str, sent: str, tmp_path: Path) -> None:
    # Found by Python at its start, and imported before anything else.
    (tmp_path / "sitecustomize.py").write_text(
        f"""import signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "{module}" and "robustbench_bcos" in sys.modules:
            signal.raise_signal(signal.{sent})
sys.meta_path.insert(0, Finder())
"""
    )
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    line = [sys.executable, "-m", "robustbench_bcos", "models"]
    found = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=60)
    assert found.returncode == 130
    assert found.stderr in ("", "interrupted\n")
    assert found.stdout == ""


def test_a_second_interruption_ends_at_once(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        """import signal, sys, time
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            try:
                signal.raise_signal(signal.SIGINT)
            finally:
                signal.raise_signal(signal.SIGINT)
                time.sleep(50)
sys.meta_path.insert(0, Finder())
"""
    )
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    line = [sys.executable, "-m", "robustbench_bcos", "models"]
    found = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=40)
    assert (found.returncode, found.stdout, found.stderr) == (130, "", "")


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("with_torch", [False, True])
@pytest.mark.parametrize(("line", "status"), [("--version", 0), ("run --norm l3", 2)])
def test_libraries_of_torch_are_not_taken_down_and_all_else_is_done(
    line: str, status: int, with_torch: bool, before: bool
) -> None:
    code = f"""import atexit, os, sys, types
class Library:
    def __del__(self, write=os.write): write(1, b"taken down ")
library = Library()
if {before}: atexit.register(os.write, 1, b"before ")
if {with_torch}: sys.modules["torch"] = types.ModuleType("torch")
from robustbench_bcos import __main__, cli
command = cli.main
def main():
    atexit.register(os.write, 1, b"after ")
    print("printed", end=" ")
    command()
cli.main = main
sys.argv = ["robustbench_bcos", *{line!r}.split()]
__main__.main()
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert found.returncode == status
    said = ["robustbench_bcos", VERSION] if status == 0 else []
    last = ["before", "taken", "down"] if before else [] if with_torch else ["taken", "down"]
    assert found.stdout.split() == ["printed", *said, "after", *last]


def test_whoever_stops_reading_ends_the_program_as_it_ends_others() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = start("models", stdout=writing)
    os.close(writing)
    assert ended(process) == (141, None, "")


@pytest.mark.skipif(not FULL.exists(), reason="a device of Linux")
@pytest.mark.parametrize("line", ["models", "run --help", "--version"])
def test_a_full_device_is_told_in_a_sentence(line: str) -> None:
    with FULL.open("w") as full:
        code, _, err = ended(start(*line.split(), stdout=full))
    assert code == 2
    assert err == "error: standard output cannot be written (No space left on device): send it somewhere else\n"


def test_messages_that_nobody_can_read_stop_nothing(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = ["run", "--limit", 2, "--eps", 0.1, "--steps", 1, "--evidence", "off", "--no-figures", "--out", tmp_path]
    process = start(*command, "--model", "nothing", stderr=writing)
    os.close(writing)
    assert ended(process) == (2, "", None)


@pytest.mark.parametrize("redirected", ["1>&-", "2>&-", "1>&- 2>&-", "0<&- 1>&- 2>&-"])
def test_streams_that_are_closed_are_no_error(redirected: str) -> None:
    line = f"exec {sys.executable} -m robustbench_bcos suites {redirected}"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    found = subprocess.run(["sh", "-c", line], env=environment, capture_output=True, text=True, timeout=60)
    assert (found.returncode, found.stderr) == (0, "")
    assert ("digits" in found.stdout) == ("1>&-" not in redirected)


def test_what_an_encoding_lacks_is_escaped() -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    line = [sys.executable, "-m", "robustbench_bcos", "models"]
    found = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=60)
    assert (found.returncode, found.stderr) == (0, "")
