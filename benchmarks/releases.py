"""Whole commands beside those of another build: the default command, its parts, a report, a training.

    python benchmarks/releases.py --old DIR    # beside the package in that folder: a clone of version 0.2.0, say
    python benchmarks/releases.py              # what can be measured without another build
    python benchmarks/releases.py --old DIR --quick    # one model and few images; quote nothing

Commands of both builds take turns, each in a process of its own with one thread. Their processor time counts, start-up
included, because other work on the machine does not change it much; peak memory is that of the process. Of the default
command there is one pair, because it takes minutes, and of everything else three; start-up is the median of five. Both
builds have their bytecode before, as installed packages do.

The training is of a B-cos ResNet-20 on 256 random pictures of 32x32 against l2 PGD of 7 steps in float32, by a recipe
that both builds read; an epoch is what a training of two epochs takes more than one of one.
"""

import argparse
import csv
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from builds import HERE, SEVEN, Spent, by_python, compile_files, in_turns, of_command
from pairs import Claim, Turns, make_parser, parse, publish

PROCESSOR = "of the processor"

ATTACKED = 99
"""Exit status of a process that got so far."""

STARTUP = f"""
import os
from robustbench_bcos.attacks import gradients
from robustbench_bcos.__main__ import main
# The first slope of an attack is to be propagated back: the batch is attacked.
gradients.image_gradient = lambda *_, **__: os._exit({ATTACKED})
main()
"""

TORCH = ("import torch", "import os, torch; os._exit(0)")
"""As a program, and without taking its libraries down, which is no part of starting."""

RECIPE = """
name = "pictures-bcos-adv-l2-resnet20"
family = "bcos"
architecture = "bcos_resnet20"
arguments = { b = 2.0, norm = "batch-uncentred", norm_affine = "no-bias" }
dataset = "folder"
classes = 10
image_size = [32, 32]
loss = "bce"
epochs = 1
batch_size = 64
optimiser = "adam"
learning_rate = 5e-3

[encoding]
kind = "add_inverse"

[training]
kind = "adversarial"
norm = "l2"
eps = "0.5"
"""


def default_run(folder: Path, *options: str, quick: bool) -> list[str]:
    """The command that is shown first, of the models that both builds have."""
    models = [option for name in (SEVEN[:1] if quick else SEVEN) for option in ("--model", f"digits-{name}")]
    small = ["--limit", "10", "--steps", "2"] if quick else ["--steps", "100"]
    return ["run", *models, "--norm", "l2", "--eps", "0.5", *small, "--quiet", *options, "--out", str(folder)]


def whole_commands(place: Path, old: Path, pairs: int, quick: bool) -> list[Claim]:
    """With and without evidence, figures and page; leaves a run of each build."""
    ours: list[Spent] = []
    theirs: list[Spent] = []
    for pair in range(pairs):
        ours.append(of_command(HERE, default_run(place / f"ours{pair}", quick=quick)))
        theirs.append(of_command(old, default_run(place / f"theirs{pair}", quick=quick)))
    turns, peaks = _turns(ours, theirs, "processor"), _turns(ours, theirs, "peak_mib")
    plain = ("--evidence", "off", "--no-figures")

    def bare(build: Path) -> float:
        with tempfile.TemporaryDirectory(dir=place) as folder:
            return of_command(build, default_run(Path(folder) / "run", *plain, quick=quick)).processor

    alike = in_turns(lambda: bare(HERE), lambda: bare(old), 1 if quick else 3)
    what = "the default command, 100 steps, with evidence, figures and page"
    memory_claim = Claim.of(f"{what}: peak memory", old.name, peaks, 0.70)
    in_mib = f"{memory_claim.ours_s:,.0f} / {memory_claim.theirs_s:,.0f} MiB"
    return [
        Claim.of(f"{what}, {PROCESSOR}", old.name, turns, 0.40),
        Claim.of("the same, as first promised", old.name, turns, 0.95),
        memory_claim._replace(ours_s=None, theirs_s=None, note=in_mib),
        Claim.of(f"the same with {' '.join(plain)}, {PROCESSOR}", old.name, alike, 0.95),
    ]


def evidence(run: Path) -> Claim:
    """What evidence takes of a run, for what its attacks take."""
    rows = list(csv.DictReader((run / "timings.csv").read_text(encoding="utf-8").splitlines()))
    checks, attacks = (sum(float(row[f"{what}_seconds"]) for row in rows) for what in ("evidence", "attack"))
    claim = Claim("evidence of that run, all models", "its attacks", checks / attacks, 0.6)
    return claim._replace(ours_s=checks, theirs_s=attacks)


def reports(place: Path, old: Path, pairs: int) -> Claim:
    """Tables, figures and page of the finished runs, written again."""
    turns = in_turns(
        lambda: of_command(HERE, ["report", str(place / "ours0")]).processor,
        lambda: of_command(old, ["report", str(place / "theirs0")]).processor,
        pairs,
    )
    return Claim.of(f"`report` of that run: tables, figures and page, {PROCESSOR}", old.name, turns, 0.35)


def starts(place: Path, times: int) -> list[Claim]:
    """Up to the first attacked batch, and up to a mistake that needs no torch."""
    asked = ["-c", STARTUP, *default_run(place / "start", quick=True)]
    first: list[Spent] = []
    whole: list[Spent] = []
    part: list[Spent] = []
    mistakes: list[Spent] = []
    for _ in range(times):
        first.append(by_python(HERE, *asked, expected=ATTACKED))
        shutil.rmtree(place / "start")
        whole.append(by_python(HERE, "-c", TORCH[0]))
        part.append(by_python(HERE, "-c", TORCH[1]))
        mistakes.append(of_command(HERE, ["run", "--norm", "l3"], expected=2))
    what = "from the start to the first attacked batch"
    seconds, told = (sorted(getattr(one, clock) for one in mistakes)[times // 2] for clock in ("clock", "processor"))
    return [
        Claim.of(f"{what}, {PROCESSOR}", "`import torch`", _turns(first, whole, "processor"), 1.35),
        Claim.of(f"{what}, the clock", "`import torch`", _turns(first, whole, "clock"), 1.35),
        Claim.of(f"{what}, {PROCESSOR}", "the same up to its end", _turns(first, part, "processor"), None),
        Claim("an error that needs no torch", "the clock", seconds, 0.5, unit="s", note=f"{told:.2g} s {PROCESSOR}"),
    ]


def _turns(ours: Sequence[Spent], theirs: Sequence[Spent], clock: str) -> Turns:
    return Turns([getattr(one, clock) for one in ours], [getattr(one, clock) for one in theirs])


def pictures(root: Path, images: int) -> Path:
    """Random ones in ten class folders."""
    from PIL import Image

    for split, count in (("train", images), ("test", 10)):
        for number in range(count):
            folder = root / split / str(number % 10)
            folder.mkdir(parents=True, exist_ok=True)
            content = random.Random(number).randbytes(32 * 32 * 3)
            Image.frombytes("RGB", (32, 32), content).save(folder / f"{number:05d}.png")
    return root


def epochs(place: Path, old: Path, pairs: int, quick: bool) -> Claim:
    """Of an adversarial training."""
    recipe, shown = place / "recipe.toml", pictures(place / "pictures", 10 if quick else 256)
    recipe.write_text(RECIPE, encoding="utf-8")

    def training(build: Path, count: int) -> float:
        with tempfile.TemporaryDirectory(dir=place) as folder:
            asked = ["--dataset", f"folder:{shown}", "--epochs", str(count), "--out", str(Path(folder) / "out")]
            return of_command(build, ["train", str(recipe), *asked]).processor

    turns = in_turns(lambda: training(HERE, 2) - training(HERE, 1), lambda: training(old, 2) - training(old, 1), pairs)
    return Claim.of(f"an epoch of adversarial training, B-cos ResNet-20, {PROCESSOR}", old.name, turns, 0.6)


def wheel(place: Path) -> Claim:
    """Built from the package's files and nothing else, by the setuptools that is installed."""
    source, built = place / "source", place / "built"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(HERE / "robustbench_bcos", source / "robustbench_bcos", ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(HERE / name, source / name)
    line = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(built), str(source)]
    subprocess.run(line, stdout=subprocess.DEVNULL, check=True)
    (file,) = built.glob("*.whl")
    return Claim("the wheel", "its size", file.stat().st_size / 10**6, 6.5, unit="MB")


def with_old(place: Path, options: argparse.Namespace) -> list[Claim]:
    """What is measured against the other build, and the run that is left."""
    old, quick = options.old, options.quick
    few = 1 if quick else options.pairs or 3
    claims = whole_commands(place, old, 1 if quick else options.pairs or 1, quick)
    return [
        *claims,
        evidence(place / "ours0"),
        reports(place, old, few),
        epochs(place, old, few, quick),
    ]


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--old", type=Path, metavar="DIR", help="folder of the other package")
    options = parse(parser)
    for build in filter(None, (HERE, options.old)):
        compile_files(build)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        claims = [*starts(place, 1 if options.quick else 5), wheel(place)]
        if options.old is not None:
            claims += with_old(place, options)
    if options.old is None:
        print("without --old no whole command is measured", file=sys.stderr)
    publish("releases", claims, options)


if __name__ == "__main__":
    main()
