"""Two ways to the same result take turns on the clock, and what was promised of their ratio is held against it.

Nothing here imports torch: a process that does passes its memory on to the peaks of those it starts.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

LONG = 10.0
"""Seconds a pair may take for five of them to be worth while; of longer ones there are three."""

PACKAGES = ("robustbench_bcos", "torch", "torchvision", "torchattacks", "foolbox", "robustness", "bcos")


class Turns(NamedTuple):
    """Seconds of each turn; two of the same place were taken one after the other."""

    ours: list[float]
    theirs: list[float]

    @property
    def ratios(self) -> list[float]:
        return [our / their for our, their in zip(self.ours, self.theirs, strict=True)]


class Claim(NamedTuple):
    """What was measured, and what was promised of it."""

    claim: str
    peer: str
    value: float
    target: float | None
    """The most it may be; ``None`` where nothing was promised."""
    unit: str = "ratio"
    """``ratio`` is our time over theirs."""
    spread: tuple[float, float] | None = None
    """The least and the most of all pairs."""
    pairs: int = 1
    ours_s: float | None = None
    theirs_s: float | None = None
    note: str = ""
    worse: int = 0
    """Images more that withstand ours: a fast attack that finds less holds no promise."""

    @property
    def held(self) -> bool | None:
        return None if self.target is None else self.value <= self.target and self.worse <= 0

    @classmethod
    def of(
        cls,
        claim: str,
        peer: str,
        turns: Turns,
        target: float | None,
        *,
        standing: tuple[int, int] | None = None,
        passes: tuple[int, int] | None = None,
    ) -> "Claim":
        """The median of the ratios, of attacks that so many images withstand and that pass so many forward."""
        ours, theirs = standing or (0, 0)
        notes = [] if standing is None else [f"{ours:,} / {theirs:,} images stand"]
        notes += [] if passes is None else [f"{100 * passes[0] / passes[1]:.0f} % of the forward passes"]
        return cls(
            claim,
            peer,
            statistics.median(turns.ratios),
            target,
            spread=(min(turns.ratios), max(turns.ratios)),
            pairs=len(turns.ratios),
            ours_s=statistics.median(turns.ours),
            theirs_s=statistics.median(turns.theirs),
            note=", ".join(notes),
            worse=max(0, ours - theirs),
        )


def take_turns(
    ours: Callable[[], object],
    theirs: Callable[[], object],
    pairs: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Turns:
    """Time both, pair by pair, in alternating order; on a busy machine both are slow.

    Neither may return before its work is done: on a GPU, give back a number.
    """
    turns = Turns([], [])
    while len(turns.ours) < (pairs or _pairs_worth_while(turns)):
        sides = [(ours, turns.ours), (theirs, turns.theirs)]
        for work, seconds in sides if len(turns.ours) % 2 == 0 else reversed(sides):
            began = clock()
            work()
            seconds.append(clock() - began)
    return turns


def _pairs_worth_while(turns: Turns) -> int:
    if not turns.ours:
        return 1
    return 5 if turns.ours[0] + turns.theirs[0] < LONG else 3


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """The options that every script has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="of torch, for both sides (2)")
    parser.add_argument("--pairs", type=int, help="of turns on the clock; by default five, and three of long ones")
    parser.add_argument("--quick", action="store_true", help="one pair of a small size: does it run? Quote nothing")
    return parser


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The options; first of all, threads that wait do not spin, which on a busy machine slows all tenfold.

    OpenMP reads its environment once, when torch is imported, so the process may begin again.
    """
    options = parser.parse_args()
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "passive"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    return options


def describe_machine() -> dict[str, object]:
    """What a ratio depends on besides the code."""
    return {
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY"),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def publish(script: str, claims: Sequence[Claim], options: argparse.Namespace) -> None:
    """Print a table, and all of it as one line of JSON."""
    Console(width=150).print(table_of(claims, "Too small to quote" if options.quick else None))
    rows = [_rounded(claim) for claim in claims]
    print(json.dumps({"script": script, **describe_machine(), "options": vars(options), "claims": rows}, default=str))


def table_of(claims: Sequence[Claim], title: str | None = None) -> Table:
    """One row a claim."""
    table = Table("work", "against", "measured", "of all pairs", "target", "held", "ours / theirs (s)", "", title=title)
    for claim in claims:
        unit = "" if claim.unit == "ratio" else f" {claim.unit}"
        table.add_row(
            claim.claim,
            claim.peer,
            f"{claim.value:.3g}{unit}",
            "" if claim.spread is None else f"{claim.spread[0]:.3g} to {claim.spread[1]:.3g}, {claim.pairs}",
            "" if claim.target is None else f"{claim.target:g}{unit}",
            {None: "", True: "yes", False: "NO"}[claim.held],
            "" if claim.ours_s is None or claim.theirs_s is None else f"{claim.ours_s:.3g} / {claim.theirs_s:.3g}",
            claim.note,
        )
    return table


def _rounded(claim: Claim) -> dict[str, object]:
    """To four digits, which is more than a clock repeats."""
    values = claim._asdict() | {"held": claim.held}
    if claim.spread is not None:
        values["spread"] = [float(f"{value:.4g}") for value in claim.spread]
    return {name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in values.items()}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    """Its name, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
