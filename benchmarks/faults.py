"""What happens to commands and their files: kills, damages, full disks, others at the same time, archives.

    python benchmarks/faults.py                                # all of it, half an hour or so on two cores
    python benchmarks/faults.py --only damages --damages 5000  # one part of it, and how often
    python benchmarks/faults.py --quick                        # a few of each kind; quote nothing

Whatever is killed and then repeated has to leave the files of a command that nothing happened to: anything else is
*lost*. A damaged input has to be refused in a sentence or to give the results of the whole one: others are *silently
different*, where the file carries a digest or a checksum, and *another value* where it is a text that people write by
hand. *Executed* counts inputs after which a file is there that only code hidden in them makes. Prints a table and one
line of JSON; exit status 1 where anything was lost, executed, silently different or a traceback.
"""

import argparse
import contextlib
import csv
import fnmatch
import hashlib
import io
import itertools
import json
import os
import pickle
import random
import resource
import shutil
import signal
import struct
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from damages import HARM, SOURCE, TRAP, damaged
from forks import (
    SAID,
    Ended,
    Work,
    call,
    ended,
    in_this_process,
    mounted,
    remounted,
    started,
    stopped_once,
    succeed,
    warm_up,
)
from pairs import Claim, publish
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from robustbench_bcos.data.dataset import AbstractDataset
    from robustbench_bcos.model_zoo.cards import Entry

MODELS = ["--model", "digits-natural,digits-bcos-b2"]
SMALL = ["--eps", "0.3", "--steps", "2", "--batch-size", "2", "--no-figures"]
AUTO = ["--model", "digits-natural", "--attack", "autoattack", "--eps", "2", "--batch-size", "2"]
OUT = ["--out", "out"]
RUNS = (
    ["run", *OUT, "--model", "digits-natural", *SMALL, "--limit", "2"],
    ["run", *OUT, *MODELS, *SMALL, "--limit", "4", "--evidence", "off", "--explained", "1", "--jobs", "2"],
    ["run", *OUT, *MODELS, *SMALL, "--limit", "3", "--evidence", "off", "--norm", "l2,linf", "--save-adversarials"],
    ["run", *OUT, *AUTO, "--limit", "4", "--evidence", "off", "--no-figures"],
    ["run", *OUT, "--model", "digits-bcos-b2", *SMALL[:-1], "--limit", "2", "--evidence", "off", "--explained", "1"],
    ["run", *OUT, "--model", "digits-natural", *SMALL, "--limit", "1", "--evidence", "off", "--distances"],
)
"""Every stage: evidence, explanations, jobs, saving, parts of an attack, figures and distances."""

TIMED = ("run.json", "run.sqlite*", "timings.csv", "report.html", "*.log.csv", "*.lock")
"""Files that say when they were written, and how long that took."""

FORECASTERS = """
description = "small"
systems = ["lotka_volterra"]
seeds = [0]
all = { iterations = 2, width = 4, rollout = 1 }
variations = { own = { b = 1.5 } }
threats = { norms = ["l2"], eps = [0.05], steps = 2 }
"""
RECIPE = """
name = "own"
family = "conventional"
architecture = "resnet8"
dataset = "digits"
classes = 10
image_size = [8, 8]
loss = "ce"
epochs = 2
batch_size = 256
optimiser = "adam"
learning_rate = 5e-3

[encoding]
kind = "none"
"""

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)

SESSIONS = 6
"""Kills in a row, at most: after these the work may end."""

NOBODY = 65534
"""Number of a user who owns nothing."""

FAULTS = ("lost", "tracebacks", "silently different", "executed")
COUNTED = ("tries", "refused", *FAULTS, "another value")


class Faults:
    """Counts by kind, in a folder that is removed afterwards."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root, self.random = root, random.Random(seed)
        self.counts: dict[str, Counter[str]] = {}
        self.said: list[str] = []

    def add(self, kind: str, what: str, outcome: Ended, *, tries: int = 1, **found: bool) -> None:
        counts = self.counts.setdefault(kind, Counter())
        counts["tries"] += tries
        counts["refused"] += outcome.refused
        for name, happened in {"tracebacks": not outcome.told, **found}.items():
            counts[name.replace("_", " ")] += happened
            if happened and name != "another_value":
                self.said.append(f"{kind}: {what}: {name}, exit status {outcome.code}: {outcome.err[-600:]}")

    def sum_of(self, kind: str) -> Counter[str]:
        """Of a kind and of what is written behind its name."""
        return sum((counts for name, counts in self.counts.items() if name.startswith(kind)), Counter())

    def new(self, name: str) -> Path:
        place = self.root / name
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        return place


def contents(folder: Path, without: Sequence[str] = TIMED) -> dict[str, bytes]:
    """What a folder holds, by path."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in files
        if not any(fnmatch.fnmatch(file.name, pattern) for pattern in without)
    }


# Kills


def of_run(faults: Faults, times: int) -> None:
    kills(faults, "kills of run", RUNS, times)


def of_train(faults: Faults, times: int) -> None:
    recipe = faults.new("recipe") / "own.toml"
    recipe.write_text(RECIPE)
    kills(faults, "kills of train", [["train", str(recipe), *OUT]], times)


def of_fetch(faults: Faults, times: int) -> None:
    with published(faults) as zoo:
        works = [["fetch", "own", "--zoo", str(zoo)], ["fetch", "cifar10", "--data-dir", "out"]]
        kills(faults, "kills of fetch", works, times)


def kills(faults: Faults, kind: str, works: Sequence[list[str]], times: int) -> None:
    """Killed at random moments, over and over, until it has ended; the works take turns."""
    works, lengths, killed = works[:times], list[float](), 0
    for number, work in enumerate(works):
        began = time.perf_counter()
        succeed(work, faults.new(f"whole {number}"), with_own_cache)
        lengths.append(time.perf_counter() - began)
    while killed < times:
        for number, work in enumerate(works):
            if killed < times:
                place = faults.new("killed")
                now = _killed(faults, work, place, min(SESSIONS, times - killed), lengths[number])
                outcome = call(work, place, with_own_cache)
                same = contents(place / "out") == contents(faults.root / f"whole {number}" / "out")
                what = f"{' '.join(work)}, {now} kills"
                faults.add(kind, what, outcome, tries=now, lost=outcome.code != 0 or not same)
                killed += now


def _killed(faults: Faults, work: list[str], place: Path, times: int, length: float) -> int:
    """How often it was killed before it ended."""
    for number in range(times):
        process = started(work, place, with_own_cache)
        time.sleep(faults.random.uniform(0, length))
        os.kill(process, faults.random.choice(SIGNALS))
        outcome = ended(process, place)
        if outcome.code == 0:
            return number
        if outcome.code != -signal.SIGKILL and not outcome.told:
            faults.add("kills", " ".join(work), outcome, tries=0)
    return times


def with_own_cache() -> None:
    os.environ["ROBUSTBENCH_BCOS_CACHE"] = os.path.abspath("out")


@contextlib.contextmanager
def published(faults: Faults) -> Iterator[Path]:
    """A server that sends slowly, and a folder with the card of a model whose weights it has; it has CIFAR-10, too."""
    from torchvision.datasets import CIFAR10

    from robustbench_bcos.data.datasets.cifar10 import Cifar10
    from robustbench_bcos.model_zoo.cards import Zoo

    entry = Zoo()["digits-natural"]
    archive, digests = little_cifar10()
    site = {"/own.safetensors": entry.weights_file.read_bytes(), "/cifar": archive}
    server = HTTPServer(("127.0.0.1", 0), type("Handler", (SlowHandler,), {"site": site}))
    address = f"http://127.0.0.1:{server.server_address[1]}"
    zoo = faults.new("theirs")
    write_card(entry, zoo, url=f"{address}/own.safetensors")
    Cifar10.url = f"{address}/cifar"
    CIFAR10.tgz_md5 = hashlib.md5(archive).hexdigest()
    CIFAR10.train_list, CIFAR10.test_list = digests[:5], digests[5:6]
    CIFAR10.meta = {**CIFAR10.meta, "md5": digests[6][1]}
    os.environ["no_proxy"] = "127.0.0.1"
    process = started(server.serve_forever, faults.new("server"))
    try:
        yield zoo
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        server.server_close()


class SlowHandler(BaseHTTPRequestHandler):
    """Sends a file in a third of a second, or what is asked for of it."""

    site: dict[str, bytes]

    def do_GET(self) -> None:
        content = self.site[self.path]
        first = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if first else 200)
        self.send_header("ETag", '"one"')
        self.send_header("Content-Length", str(len(content) - first))
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        step = len(content) // 100 + 1
        with contextlib.suppress(ConnectionError):
            for start in range(first, len(content), step):
                self.wfile.write(content[start : start + step])
                time.sleep(0.003)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def little_cifar10() -> tuple[bytes, list[list[str]]]:
    """An archive of the original form, and the digest of each file in it."""
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    pixels = bytes(3 * 32 * 32)
    files = {name: pickle.dumps({"data": np.frombuffer(pixels, np.uint8)[None], "labels": [1]}) for name in names}
    files["batches.meta"] = pickle.dumps({"label_names": [f"class {number}" for number in range(10)]})
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue(), [[name, hashlib.md5(content).hexdigest()] for name, content in files.items()]


def write_card(entry: "Entry", zoo: Path, **weights: str) -> Path:
    """The card of a model of the package under another name."""
    import tomli_w

    card = entry.card.model_dump(mode="json", exclude_none=True)
    file = zoo / "own.toml"
    changed = card["weights"] | {"file": "own.safetensors"} | weights
    file.write_text(tomli_w.dumps(card | {"name": "own", "weights": changed}))
    return file


# Damages


class Input(NamedTuple):
    """A kind of file, and the commands that read it."""

    file: str
    commands: list[list[str]]
    guarded: bool = True
    """Whether it carries a digest or a checksum; of a text that people write, another digit is another value."""
    results: str = ""
    """What is written, as a pattern; what is said where it is empty."""


def inputs(home: Path) -> list[Input]:
    """Fill a folder with a whole file of each kind, mostly by the commands themselves."""
    import torch
    from safetensors.torch import load_file
    from torchvision.utils import save_image

    from robustbench_bcos.data.manifest import Manifest
    from robustbench_bcos.data.opening import open_dataset
    from robustbench_bcos.model_zoo.cards import Zoo

    entry = Zoo()["digits-natural"]
    for folder in ("zoo", "log", "cache/weights/own", "theirs"):
        (home / folder).mkdir(parents=True)
    shutil.copy(entry.weights_file, home / "zoo" / "own.safetensors")
    write_card(entry, home / "zoo")
    torch.save(load_file(entry.weights_file), home / "own.pth")
    shutil.copy(entry.weights_file, home / "cache/weights/own/own.safetensors")
    write_card(entry, home / "theirs", url="http://127.0.0.1:9/own.safetensors")
    (home / "suite.toml").write_text('description = "small"\nthreat = ["l2:0.3"]\nsteps = [2]\n')
    (home / "recipe.toml").write_text(RECIPE)
    (home / "classes.json").write_text(json.dumps({str(label): f"{label}" for label in range(10)}))
    digits = open_dataset("digits", "test")
    for folder in ("pictures", "numbered"):
        for label in range(10):
            place = home / folder / str(label) / "0.png"
            place.parent.mkdir(parents=True)
            save_image(digits.read(digits.labels.index(label)), place)
    Manifest(classes=tuple(map(str, range(10)))).write(home / "pictures")
    (home / "log" / "net.log.csv").write_text("number,loss,accuracy,seconds\n1,2.5,0.25,1.0\n2,1.5,0.5,1.0\n")
    (home / f"{TRAP}.py").write_text(SOURCE)
    small = ["--eps", "0.3", "--steps", "2", "--limit", "4", "--evidence", "off", "--no-figures"]
    succeed(["run", *MODELS, *small, "--explained", "1", "--out", "done"], home)
    succeed(["check", "done", "--baseline", "baseline.csv", "--update"], home)
    half_trained(home)
    (home / "few.txt").write_text("".join(f"{label}/0.png\n" for label in range(10)))
    write_idx(home / "idx", digits)
    grids = ["localise", *MODELS[:2], "--limit", "40", "--grids", "2", "--eps", "0.3", "--steps", "2", "--no-figures"]
    succeed([*grids, "--out", "grids"], home)
    (home / "small.toml").write_text(FORECASTERS)
    succeed(["dynamics", "train", "small.toml", "--out", "fields"], home)
    forecast = ["dynamics", "run", "fields", "--suite", "small.toml", "--no-figures", "--out", "new"]
    own = ["run", *small, "--out", "new"]
    network = ["--architecture", "resnet8", "--dataset", "digits"]
    report = [["report", "done", "--no-figures", "--out", "new"], ["compare", "done", "--format", "csv"]]
    table = ["results.csv", "--format", "csv"]
    return [
        Input("done/run.sqlite", report),
        Input("done/run.json", report),
        Input("done/results.csv", [["compare", f"done/{table[0]}", *table[1:]]]),
        Input("baseline.csv", [["check", "done", "--baseline", "baseline.csv", "--json"]]),
        Input("zoo/own.toml", [[*own, "--zoo", "zoo", "--model", "own"]], guarded=False),
        Input("zoo/own.safetensors", [[*own, "--zoo", "zoo", "--model", "own"]]),
        Input("cache/weights/own/own.safetensors", [[*own, "--zoo", "theirs", "--model", "own"]]),
        Input("own.pth", [[*own, *network, "--weights", "own.pth"]]),
        Input("trained/own.ckpt", [["train", "recipe.toml", "--out", "trained"]], results="trained/own.safetensors"),
        Input("trained/own.log.csv", [["train", "recipe.toml", "--out", "trained"]], results="trained/own.safetensors"),
        Input("recipe.toml", [["train", "recipe.toml", "--out", "new"]], guarded=False, results="new/own.safetensors"),
        Input("suite.toml", [["run", "--suite", "suite.toml", "--model", "digits-natural", *own[5:]]], guarded=False),
        Input("pictures/0/0.png", [[*own, "--dataset", "folder:pictures", "--model", "digits-natural"]]),
        Input("pictures/dataset.json", [[*own, "--dataset", "folder:pictures", "--model", "digits-natural"]]),
        Input(
            "classes.json",
            [[*own, "--dataset", "folder:numbered", "--classes", "classes.json", "--model", "digits-natural"]],
            guarded=False,
        ),
        Input("log/net.log.csv", [["curves", "log", "--figure", "new/curves"]], guarded=False),
        Input(
            "few.txt",
            [[*own, "--dataset", "folder:pictures", "--image-list", "few.txt", "--model", "digits-natural"]],
            guarded=False,
        ),
        Input(
            "idx/t10k-images-idx3-ubyte",
            [[*own, "--dataset", "idx:idx", "--channels", "3", "--model", "digits-natural"]],
            guarded=False,
        ),
        Input(
            "idx/t10k-labels-idx1-ubyte",
            [[*own, "--dataset", "idx:idx", "--channels", "3", "--model", "digits-natural"]],
            guarded=False,
        ),
        Input("grids/run.sqlite", [[*grids, "--out", "grids"]], results="grids/localisation.csv"),
        Input("grids/run.json", [[*grids, "--out", "grids"]], results="grids/localisation.csv"),
        Input("fields/lotka_volterra-own-seed0.toml", [forecast]),
        Input("fields/lotka_volterra-own-seed0.safetensors", [forecast]),
        Input(
            "fields/lotka_volterra.npz",
            [[*forecast, "--data", "fields/lotka_volterra.npz", "--system", "lotka_volterra"]],
        ),
        Input("small.toml", [forecast], guarded=False),
    ]


def write_idx(folder: Path, digits: "AbstractDataset") -> None:
    """The first ten digits, in the form of MNIST."""
    folder.mkdir()
    levels = np.stack([np.rint(255 * digits.read(index)[0].numpy()).astype(np.uint8) for index in range(10)])
    for name, array in (("images-idx3", levels), ("labels-idx1", np.array(digits.labels[:10], np.uint8))):
        head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
        (folder / f"t10k-{name}-ubyte").write_bytes(head + array.tobytes())


def half_trained(home: Path) -> None:
    """Leave what a training leaves that is killed after its first epoch."""
    for _ in range(50):
        process = started(["train", "recipe.toml", "--out", "trained"], home)
        if stopped_once(process, (home / "trained" / "own.ckpt").exists):
            os.kill(process, signal.SIGKILL)
            ended(process, home)
            return
        ended(process, home)
        shutil.rmtree(home / "trained")
    raise SystemExit("no training could be stopped")


def damages(faults: Faults, times: int) -> None:
    """Each kind of file is damaged as often as the others."""
    home = faults.new("inputs")
    kinds = inputs(home)
    before = contents(home, SAID)
    whole: dict[str, list[object]] = {}
    for kind in kinds:
        undamaged = [results(kind, command, copied(faults, home)) for command in kind.commands]
        assert all(outcome.code == 0 for outcome, _ in undamaged), undamaged
        whole[kind.file] = [found for _, found in undamaged]
    for number in range(times):
        kind = kinds[number % len(kinds)]
        turn = number // len(kinds)
        command = turn % len(kind.commands)
        place = copied(faults, home)
        (place / kind.file).write_bytes(damaged(before[kind.file], turn, faults.random))
        outcome, found = results(kind, kind.commands[command], place)
        different = outcome.code == 0 and found != whole[kind.file][command]
        faults.add(
            f"damages of {kind.file}",
            f"damage {number}",
            outcome,
            silently_different=different and kind.guarded,
            another_value=different and not kind.guarded,
            executed=any(faults.root.rglob(HARM)),
        )


def copied(faults: Faults, home: Path) -> Path:
    place = faults.root / "copy"
    shutil.rmtree(place, ignore_errors=True)
    return shutil.copytree(home, place)


def results(kind: Input, command: list[str], place: Path) -> tuple[Ended, object]:
    """What a command says, and what a reader takes away from it."""

    def prepare() -> None:
        # As for a process that Python starts here.
        sys.path.insert(0, str(place))
        os.environ["ROBUSTBENCH_BCOS_CACHE"] = str(place / "cache")

    outcome = call(command, place, prepare)
    file = place / (kind.results or "new/results.csv")
    if not file.is_file():
        return outcome, outcome.out
    if file.suffix != ".csv":
        return outcome, file.read_bytes()
    # The digest of a file that says the same in other bytes is another one.
    with file.open(encoding="utf-8", newline="") as rows:
        return outcome, [{**row, "weights_sha256": ""} for row in csv.DictReader(rows)]


# Others at the same time


def at_the_same_time(faults: Faults, times: int) -> None:
    """One is held in the middle of its work: a second is refused, and the first ends as if it had been alone."""
    recipe = faults.new("recipe") / "own.toml"
    recipe.write_text(RECIPE)
    train = ["train", str(recipe), *OUT]
    run = RUNS[0]
    where = ["--out", "../first/out"]
    pairs = [
        (run, [*run, *where]),
        (run, [*run, "--overwrite", *where]),
        (run, [*run, "--eps", "0.4", *where]),
        (run, [*run, "--jobs", "2", *where]),
        (run, ["report", "../first/out", "--no-figures"]),
        (train, [*train, *where]),
        (train, [*train, "--epochs", "2", *where]),
        (train, [*train, "--seed", "1", *where]),
    ]
    whole = {}
    for work in (run, train):
        place = faults.new("whole")
        succeed(work, place)
        whole[work[0]] = contents(place / "out")
    reached = {"run": "run.json", "train": "own.ckpt"}
    tried = 0
    while tried < times:
        work, second = pairs[tried % len(pairs)]
        place = faults.new("first")
        process = started(work, place)
        if not stopped_once(process, (place / "out" / reached[work[0]]).exists):
            ended(process, place)
            continue
        outcome = call(second, faults.new("second"))
        os.kill(process, signal.SIGCONT)
        first = ended(process, place)
        same = first.code == 0 and contents(place / "out") == whole[work[0]]
        refused = outcome.code == 2 and "by another process" in outcome.err
        faults.add("at the same time", f"{work} and {second}: {first.err[-200:]}", outcome, lost=not (same and refused))
        tried += 1


# Full disks


def full_disks(faults: Faults, times: int) -> None:
    """A disk that is too small, or no file may grow beyond a size; with room, the same command ends well."""
    with published(faults) as zoo:
        recipe = faults.new("recipe") / "own.toml"
        recipe.write_text(RECIPE)
        done = faults.new("done")
        succeed(RUNS[0], done)
        log = faults.new("log") / "net.log.csv"
        log.write_text("number,loss,accuracy,seconds\n1,2.5,0.25,1.0\n2,1.5,0.5,1.0\n")
        works = [
            RUNS[0],
            ["train", str(recipe), *OUT],
            RUNS[2],
            ["fetch", "own", "--zoo", str(zoo)],
            RUNS[4],
            ["report", str(done / "out"), *OUT],
            ["check", str(done / "out"), "--baseline", "out/baseline.csv", "--update"],
            ["explain", "--model", "digits-bcos-b2", "--dataset", "digits", "--images", "3", *OUT],
            ["curves", str(log.parent), "--figure", "out/curves"],
            ["export", "digits-bcos-b2", "--format", "safetensors", "--out", "out/model.safetensors"],
            ["fetch", "cifar10", "--data-dir", "out"],
        ]
        whole = []
        for work in works:
            place = faults.new("whole")
            (place / "out").mkdir()
            succeed(work, place, with_own_cache)
            whole.append(contents(place / "out"))
        for number in range(times):
            work, expected = works[number % len(works)], whole[number % len(works)]
            largest = sum(map(len, expected.values())) if number % 2 else max(map(len, expected.values()))
            size = faults.random.randrange(1, largest)
            full, after, found = (_on_a_small_disk if number % 2 else _with_small_files)(faults, work, size)
            lost = after.code != 0 or found != expected
            faults.add("full disks", f"{' '.join(work)}, {size} bytes, then {after.err[-300:]}", full, lost=lost)


def _on_a_small_disk(faults: Faults, work: list[str], size: int) -> tuple[Ended, Ended, dict[str, bytes]]:
    place = faults.new("full")
    (place / "out").mkdir()
    with mounted(place / "out", f"size={size}") as there:
        if not there:
            return _with_small_files(faults, work, size)
        full = call(work, place, with_own_cache)
        remounted(place / "out", "size=1g")
        return full, call(work, place, with_own_cache), contents(place / "out")


def _with_small_files(faults: Faults, work: list[str], size: int) -> tuple[Ended, Ended, dict[str, bytes]]:
    def limit() -> None:
        with_own_cache()
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    place = faults.new("full")
    (place / "out").mkdir()
    full = call(work, place, limit)
    return full, call(work, place, with_own_cache), contents(place / "out")


# Archives


def readers(faults: Faults, times: int) -> None:
    """What reads a run, models or logs says the same of an archive of them, and writes nothing there."""
    home = faults.new("home")
    succeed([*RUNS[4], *MODELS, "--out", "run"], home)
    inputs_of_models(home)
    reads: list[Callable[[str], Work]] = [
        lambda run: ["report", f"{run}/run", "--no-figures", "--out", "new"],
        lambda run: ["report", f"{run}/run", "--out", "new"],
        lambda run: ["report", f"{run}/run", "--format", "markdown"],
        lambda run: ["compare", f"{run}/run"],
        lambda run: ["compare", f"{run}/run/results.csv", "--format", "csv"],
        lambda run: ["check", f"{run}/run", "--baseline", f"{run}/run"],
        lambda run: ["curves", f"{run}/log", "--figure", "new/curves"],
        lambda run: [
            "explain",
            "--zoo",
            f"{run}/zoo",
            "--model",
            "own",
            "--dataset",
            "digits",
            "--images",
            "3",
            "--out",
            "new",
        ],
        lambda run: partial(in_python, Path(run, "run")),
    ]
    expected = []
    for read in reads:
        place = faults.new("reader")
        said = succeed(read(str(home)), place).out.replace(str(home), "")
        expected.append((said, contents(place, (*TIMED, *SAID))))
    with archive_of(faults, home) as archive:
        before = contents(archive, ())
        tries = itertools.product(enumerate(reads), (False, True), (1, 2))
        for (number, read), as_another, threads in itertools.islice(itertools.cycle(tries), times):
            place = faults.new("reader")
            place.chmod(0o777)
            outcome = call(
                read(str(archive)), place, partial(as_reader, read(str(home)) if as_another else None, threads)
            )
            found = outcome.out.replace(str(archive), ""), contents(place, (*TIMED, *SAID))
            same = found == expected[number] and contents(archive, ()) == before
            who = f"{read(str(archive))}, {'another' if as_another else 'the same'} user, {threads} threads"
            faults.add("readers", who, outcome, lost=outcome.code != 0 or not same)


def inputs_of_models(home: Path) -> None:
    from robustbench_bcos.model_zoo.cards import Zoo

    (home / "log").mkdir()
    (home / "log" / "net.log.csv").write_text("number,loss,accuracy,seconds\n1,2.5,0.25,1.0\n2,1.5,0.5,1.0\n")
    (home / "zoo").mkdir()
    entry = Zoo()["digits-bcos-b2"]
    shutil.copy(entry.weights_file, home / "zoo" / "own.safetensors")
    write_card(entry, home / "zoo")


@contextlib.contextmanager
def archive_of(faults: Faults, home: Path) -> Iterator[Path]:
    """A copy that may only be read: mounted so where this user may, and with permissions that say so."""
    moved, archive = faults.root / "moved", faults.new("archive")
    shutil.copytree(home, moved)
    for file in (moved, *moved.rglob("*")):
        file.chmod(0o555 if file.is_dir() else 0o444)
    with mounted(archive, "ro", str(moved)) as there:
        yield archive if there else moved
    for file in (moved, *moved.rglob("*")):
        file.chmod(0o755 if file.is_dir() else 0o644)


def as_reader(rehearsal: Work | None, threads: int) -> None:
    """Become a reader; another user, after a rehearsal, because Python's own files may not be theirs to read."""
    import torch

    torch.set_num_threads(threads)
    if rehearsal is None or os.geteuid() != 0:
        return
    place = os.getcwd()
    with tempfile.TemporaryDirectory() as elsewhere, redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        os.chdir(elsewhere)
        in_this_process(rehearsal)
        os.chdir(place)
    os.environ["HOME"] = place
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def in_python(folder: Path) -> None:
    """Four threads at once."""
    from robustbench_bcos.reports.results import read_results

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(read_results, [folder] * 4))
    assert all(one.records.equals(found[0].records) and one.survivors == found[0].survivors for one in found)
    print(found[0].records.to_csv(), found[0].survivors)


PARTS: dict[str, tuple[Callable[[Faults, int], None], int, int]] = {
    "kills of run": (of_run, 200, 1),
    "kills of train": (of_train, 50, 1),
    "kills of fetch": (of_fetch, 50, 2),
    "damages": (damages, 1000, 16),
    "at the same time": (at_the_same_time, 24, 1),
    "full disks": (full_disks, 44, 2),
    "readers": (readers, 36, 9),
}
"""Each part, how often it is tried, and how often by --quick."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few of each: does it run? Quote nothing")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas in between")
    parser.add_argument("--seed", type=int, default=0, help="of moments and damages (0)")
    for name, (_, times, few) in PARTS.items():
        parser.add_argument(f"--{_flag(name)}", type=int, metavar="N", help=f"how often ({times}; with --quick, {few})")
    options = parser.parse_args()
    warm_up()
    with tempfile.TemporaryDirectory(prefix="faults") as folder:
        os.chmod(folder, 0o755)  # Others read in it.
        faults = Faults(Path(folder), options.seed)
        for name in options.only.split(","):
            work, times, few = PARTS[name]
            began, asked = time.perf_counter(), getattr(options, _flag(name).replace("-", "_"))
            work(faults, asked or (few if options.quick else times))
            print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    Console(width=150, stderr=True).print(table_of(faults, options.quick))
    print(*faults.said, sep="\n", file=sys.stderr)
    publish("faults", [_claim(faults, name, PARTS[name][1]) for name in options.only.split(",")], options)
    sys.exit(bool(faults.said))


def _flag(name: str) -> str:
    return name.replace("kills of ", "kills-of-").replace(" ", "-")


def _claim(faults: Faults, name: str, times: int) -> Claim:
    found = faults.sum_of(name)
    others = [f"{found[column]} {column}" for column in COUNTED[1:] if found[column]]
    note = ", ".join([f"{found['tries']} tried", *others])
    return Claim(
        name, f"nothing, in {times} tries", float(sum(found[fault] for fault in FAULTS)), 0.0, "faults", note=note
    )


def table_of(faults: Faults, quick: bool) -> Table:
    """A row for each kind, and for all damages together."""
    table = Table("kind", *COUNTED, title="Too small to quote" if quick else None)
    for kind, counts in faults.counts.items():
        table.add_row(kind, *(str(counts[name]) for name in COUNTED))
    if sum(kind.startswith("damages") for kind in faults.counts) > 1:
        table.add_row("damages in all", *(str(faults.sum_of("damages")[name]) for name in COUNTED))
    return table


if __name__ == "__main__":
    main()
