"""What jobs cost, and that no accident changes a byte: ``python benchmarks/cluster.py [kills|merge|workers]``.

``kills``: one run by one process, by two and by seven; then again and again with a worker or the submitter killed at
random, until so many kills have been survived; the CSV files of all are compared. ``merge``: seconds and memory for
verdict rows of one cell in the files of a hundred jobs. ``workers``: seconds of one worker, of two, and of one process.
Options of `run` follow after ``--``.
"""

import argparse
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from robustbench_bcos.bench.rows import VerdictRow
from robustbench_bcos.bench.store import Store

EXPORTS = ("results.csv", "images.csv", "table_l2.csv")

CELL = "digits-bcos-b2 l2 0.5 pgd loss=auto steps=20 restarts=1 start=image select=first_success misclassified image"


def line(options: list[str], folder: Path, *more: str) -> list[str]:
    quiet = ["--no-figures", "--quiet"]
    return [sys.executable, "-m", "robustbench_bcos", "run", *options, *quiet, "--out", str(folder), *more]


def carried_out(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def workers_of(folder: Path) -> list[int]:
    """Process ids of the workers that are alive."""
    found = []
    for log in folder.glob("jobs/logs/*/worker-*.txt"):
        number = int(log.stem.partition("-")[2])
        try:
            os.kill(number, 0)
        except ProcessLookupError:
            continue
        found.append(number)
    return found


def kills(options: list[str], wanted: int, every: float, place: Path) -> None:
    """Kill at random until ``wanted`` kills have been survived."""
    whole = place / "whole"
    carried_out(line(options, whole))
    for jobs in (2, 7):
        folder = place / f"jobs{jobs}"
        carried_out(line(options, folder, "--executor", "processes", "--jobs", str(jobs), "--job-minutes", "1e-6"))
        print(f"{jobs} processes: {compared(folder, whole)}", flush=True)
    chance, survived, runs = random.Random(0), {"worker": 0, "submitter": 0}, 0
    while sum(survived.values()) < wanted:
        folder = place / f"killed{runs}"
        runs += 1
        command = line(options, folder, "--executor", "processes", "--jobs", "2", "--job-minutes", "1e-6")
        finished = False
        while not finished:
            with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
                last = time.monotonic()
                while process.poll() is None:
                    time.sleep(0.02)
                    alive = workers_of(folder)
                    if not alive or time.monotonic() - last < chance.uniform(0.1, 2) * every:
                        continue
                    last = time.monotonic()
                    if chance.random() < 0.75:
                        os.kill(chance.choice(alive), signal.SIGKILL)
                        survived["worker"] += 1
                    else:
                        process.kill()
                        survived["submitter"] += 1
            finished = process.returncode == 0
            if process.returncode == 1:
                print("four jobs of a unit in a row were killed: repeated", flush=True)
        print(f"run {runs}: {survived}, {compared(folder, whole)}", flush=True)


def compared(folder: Path, whole: Path) -> str:
    different = [name for name in EXPORTS if (folder / name).read_bytes() != (whole / name).read_bytes()]
    return f"DIFFERENT: {different}" if different else "the same bytes"


def merge(rows: int, files: int, place: Path) -> None:
    """Merge the files of jobs into the store of a run."""
    each = rows // files
    made = []
    for number in range(files):
        file = place / f"{number:03}.whole"
        with Store(file) as store:
            for start in range(0, each, 50_000):
                store.add(*(verdict(number * each + image) for image in range(start, min(start + 50_000, each))))
        made.append(file)
    before, began, worked = memory(), time.perf_counter(), time.process_time()
    with Store(place / "run.sqlite") as store:
        damaged = store.merge(*made)
    seconds = time.perf_counter() - began
    worked = time.process_time() - worked
    print(f"{rows:,} rows of {files} files: {seconds:.1f} s, {worked:.1f} s of a core, {rows / worked:,.0f} rows/s")
    assert not damaged
    print(f"memory: {memory() - before} MiB more than before, {memory()} MiB at most")


def verdict(image: int) -> VerdictRow:
    return VerdictRow(
        cell=CELL,
        image=image,
        attacked=True,
        success=image % 3 == 0,
        prediction=image % 10,
        size=0.123456,
        degenerate_gradient=False,
        forward_passes=21,
        backward_passes=20,
        nearness=-0.123,
    )


def memory() -> int:
    """MiB that this process has used at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def workers(options: list[str], place: Path) -> None:
    """One worker, two workers and the threads of one process, in turns."""
    kinds = {
        "1 worker": ["--executor", "processes", "--jobs", "1"],
        "2 workers": ["--executor", "processes", "--jobs", "2"],
        "local": [],
    }
    for turn in range(2):
        for name, more in kinds.items():
            seconds = carried_out(line(options, place / f"{name}{turn}", *more))
            print(f"{name}: {seconds:.1f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["kills", "merge", "workers"])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--every", type=float, default=1.5, help="seconds between two kills, on average")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--files", type=int, default=100)
    own, _, after = (" ".join(sys.argv[1:]) + " ").partition(" -- ")
    asked, options = parser.parse_args(own.split()), after.split()
    place = Path(tempfile.mkdtemp(prefix="cluster-"))
    try:
        if asked.what == "merge":
            merge(asked.rows, asked.files, place)
        elif asked.what == "kills":
            kills(options, asked.kills, asked.every, place)
        else:
            workers(options, place)
    finally:
        shutil.rmtree(place)


if __name__ == "__main__":
    main()
