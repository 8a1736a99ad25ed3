"""Every benchmark, one after the other, each in a process of its own; what was promised, and what was measured.

    python benchmarks/all.py --out docs/speed.json     # an hour or so on two cores
    python benchmarks/all.py --pictures DIR            # CIFAR-10 in folders instead of digits; two hours
    python benchmarks/all.py --old DIR                 # also beside the package in DIR: a clone of version 0.2.0, say
    python benchmarks/all.py --quick                   # do they all run? Quote nothing

What scripts say as JSON goes into one file; a table has each claim they make, the peer, what was measured, the target,
and whether it was held. Exit status 1 if a script fails.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pairs import Claim, describe_machine, table_of
from rich.console import Console

HERE = Path(__file__).parent
QUICK = {
    "attacks": ["--quick"],
    "suites": ["--quick"],
    "overhead": ["--quick"],
    "growth": ["--quick"],
    "footprint": ["--quick"],
    "explaining": ["--quick"],
    "localising": ["--quick"],
    "post_hoc": ["--quick"],
    "ensemble": ["--images", "1"],
    "memory": ["--images", "2", "--steps", "1"],
    "folding": ["--quick"],
    "large": ["--quick"],
    "fooling": ["--quick"],
    "bcosifying": ["--quick"],
    "agreement": ["--quick"],
    "texts": ["--quick"],
    "faults": ["--quick"],
    "reading": ["--quick"],
    "releases": ["--quick"],
    "same_verdicts": ["--quick"],
    "dynamics": ["--images", "2", "--rounds", "1"],
}
"""What makes each script small."""

RESNET = "cifar10jpeg-{}-resnet20"
ON_PICTURES = {
    "attacks": ["--model", RESNET.format("natural"), "--model", RESNET.format("adv-l2"), "--pairs", "1"],
    "suites": ["--model", RESNET.format("bcos-b2"), "--limit", "200", "--pairs", "1"],
    "agreement": ["--model", RESNET.format("bcos-b2"), "--model", RESNET.format("natural"), "--eps", "0.25"],
}
"""What each script that can be is asked of photographs: networks of the zoo, and once where a turn takes minutes."""

WITH_THREADS = (
    "attacks",
    "suites",
    "overhead",
    "growth",
    "explaining",
    "post_hoc",
    "localising",
    "folding",
    "large",
    "fooling",
    "bcosifying",
    "agreement",
    "texts",
)

NEEDS_OLD = ("same_verdicts",)
"""What only compares two builds."""

WITH_OLD = ("reading", "releases", *NEEDS_OLD)
"""What is also measured beside another build, in turns."""


def arguments_of(
    script: str, *, quick: bool, threads: int, pictures: Path | None = None, old: Path | None = None
) -> list[str]:
    chosen = ["--threads", str(threads)] if script in WITH_THREADS else []
    if old is not None and script in WITH_OLD:
        chosen += ["--old", str(old.absolute())]
    if pictures is not None and script in ON_PICTURES:
        chosen += ["--dataset", f"folder:{pictures}", *ON_PICTURES[script]]
    return chosen + (QUICK.get(script, []) if quick else [])


def run(script: str, arguments: Sequence[str]) -> list[dict[str, Any]] | None:
    """Its lines of JSON, or ``None`` if it failed."""
    # Whole commands are measured as a user starts them; in all else, threads that wait do not spin.
    environment = ({"OMP_WAIT_POLICY": "passive"} if script in WITH_THREADS else {}) | os.environ
    command = [sys.executable, str(HERE / f"{script}.py"), *arguments]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=False)
    if process.returncode:
        return None
    return [json.loads(line) for line in process.stdout.splitlines() if line.startswith("{")]


def claims_in(results: dict[str, list[dict[str, Any]]]) -> Iterator[Claim]:
    for said in results.values():
        for line in said:
            for claim in line.get("claims", ()):
                yield Claim(**{name: value for name, value in claim.items() if name in Claim._fields})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--pictures", type=Path, metavar="DIR", help="CIFAR-10: train/ and test/, a folder for each class"
    )
    parser.add_argument("--old", type=Path, metavar="DIR", help="folder of another build of the package")
    parser.add_argument("--only", help="scripts, with commas in between")
    parser.add_argument("--out", type=Path, help="file for all that they say as JSON")
    options = parser.parse_args()
    here = [script for script in QUICK if options.old is not None or script not in NEEDS_OLD]
    scripts = here if options.only is None else options.only.split(",")
    results, failed = {}, []
    for script in scripts:
        began = time.perf_counter()
        asked = {name: getattr(options, name) for name in ("quick", "threads", "pictures", "old")}
        said = run(script, arguments_of(script, **asked))
        print(f"{script}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
        if said is None:
            failed.append(script)
        else:
            results[script] = said
    if options.out is not None:
        options.out.write_text(
            json.dumps({**describe_machine(), "results": results}, indent=1) + "\n", encoding="utf-8"
        )
    Console(width=150).print(table_of(list(claims_in(results)), "Too small to quote" if options.quick else None))
    if options.old is None and {*scripts} & {*WITH_OLD}:
        print("left out without --old: whatever is measured beside another build", file=sys.stderr)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
