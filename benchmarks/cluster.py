"""What jobs cost, and that no accident changes a byte.

    python benchmarks/cluster.py kills|merge|workers|scheduling -- OPTIONS OF RUN

``kills``: one run by one process, by two and by seven; then again and again with a worker or the submitter killed at
random, until so many kills have been survived; the CSV files of all are compared. ``merge``: seconds and memory for
verdict rows of one cell in the files of a hundred jobs. ``workers``: seconds and images per second of one worker, of
two, and of one process. ``scheduling``: the submitter's share of a run of ten-second jobs.
"""

import argparse
import csv
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from robustbench_bcos.bench.progress import Progress
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
                print(f"four jobs of a unit in a row were killed: repeated; so far {survived}", flush=True)
        print(f"run {runs}: {survived}, {compared(folder, whole)}", flush=True)


def compared(folder: Path, whole: Path) -> str:
    different = [name for name in EXPORTS if (folder / name).read_bytes() != (whole / name).read_bytes()]
    return f"DIFFERENT: {different}" if different else "the same bytes"


def merge(rows: int, files: int, place: Path, kept: Path) -> None:
    """Merge the files of jobs into the store of a run; files that are there already are not made again."""
    each = rows // files
    made = []
    for number in range(files):
        file, half = kept / f"{number:03}.whole", place / "half"
        made.append(file)
        if file.exists():
            continue
        with Store(half) as store:
            for start in range(0, each, 50_000):
                store.add(*(verdict(number * each + image) for image in range(start, min(start + 50_000, each))))
        shutil.move(half, file)
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


def workers(options: list[str], place: Path, turns: int) -> None:
    """One worker, two workers and the threads of one process, in turns."""
    processes = ["--executor", "processes", "--jobs"]
    kinds = {"1 worker": (1, [*processes, "1"]), "2 workers": (2, [*processes, "2"]), "local": (1, [])}
    whole: dict[str, list[float]] = {name: [] for name in kinds}
    attack: dict[str, list[float]] = {name: [] for name in kinds}
    for turn in range(turns):
        for name, (count, more) in kinds.items():
            folder = place / f"{name}{turn}"
            whole[name].append(carried_out(line(options, folder, *more)))
            attack[name].append(rate(folder, count))
            print(f"{name}: {whole[name][-1]:.1f} s, {attack[name][-1]:.1f} images/s of attacks", flush=True)
    for peer in ("1 worker", "local"):
        faster = median(ours / theirs for ours, theirs in zip(attack["2 workers"], attack[peer], strict=True))
        shorter = median(theirs / ours for ours, theirs in zip(whole["2 workers"], whole[peer], strict=True))
        print(f"2 workers to {peer}: {faster:.2f} times the images/s of attacks; {shorter:.2f} with start-up and end")


def rate(folder: Path, count: int) -> float:
    """Attacked images per second of so many workers, while they attack."""
    with (folder / "timings.csv").open(encoding="utf-8", newline="") as timings:
        seconds = sum(float(row["attack_seconds"]) for row in csv.DictReader(timings))
    with (folder / "results.csv").open(encoding="utf-8", newline="") as results:
        return count * sum(int(row["images"]) for row in csv.DictReader(results)) / seconds


def scheduling(options: list[str], place: Path) -> None:
    """The submitter's own share of a run of ten-second jobs: planning, submitting, looking, merging."""
    from typer.testing import CliRunner

    from robustbench_bcos.bench.submitter import Submitter
    from robustbench_bcos.cli import app

    carry_out, spent, units = Submitter.carry_out, [0.0, 0.0], [0]

    def timed(submitter: Submitter) -> Iterator[Progress]:
        began, worked = time.perf_counter(), time.process_time()
        for progress in carry_out(submitter):
            units[0] += 1
            yield progress
        spent[:] = time.perf_counter() - began, time.process_time() - worked

    Submitter.carry_out = timed  # type: ignore[method-assign]
    jobs = ["--executor", "processes", "--jobs", "2", "--job-minutes", str(10 / 60)]
    result = CliRunner().invoke(app, line(options, place / "run", *jobs)[3:])
    assert result.exit_code == 0, result.output
    wall, worked = spent
    share = f"the submitter worked {worked:.2f} s, {100 * worked / wall:.1f} %"
    print(f"{units[0] - 1} answers of cells, {wall:.1f} s: {share}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["kills", "merge", "workers", "scheduling"])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--every", type=float, default=1.5, help="seconds between two kills, on average")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--keep", type=Path, help="folder of the files that are merged, for another time")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--files", type=int, default=100)
    own, _, after = (" ".join(sys.argv[1:]) + " ").partition(" -- ")
    asked, options = parser.parse_args(own.split()), after.split()
    place = Path(tempfile.mkdtemp(prefix="cluster-"))
    try:
        if asked.what == "merge":
            merge(asked.rows, asked.files, place, asked.keep or place)
        elif asked.what == "kills":
            kills(options, asked.kills, asked.every, place)
        elif asked.what == "workers":
            workers(options, place, asked.turns)
        else:
            scheduling(options, place)
    finally:
        shutil.rmtree(place)


if __name__ == "__main__":
    main()
