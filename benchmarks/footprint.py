"""Wall time and peak memory of whole commands, each in a process of its own.

    python benchmarks/footprint.py            # everything, about two minutes on two cores
    python benchmarks/footprint.py --quick    # without the streaming of 10,000 images

Prints a table and one line of JSON. Budgets are those a user on two CPU cores is promised. A process inherits the peak
of the one that starts it, so torch is imported here only once the small commands have been measured.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

MEBIBYTE = 2**20


class Measured(NamedTuple):
    what: str
    seconds: float
    peak_mib: float
    budget: str


def measure(what: str, arguments: list[str], budget: str) -> Measured:
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "robustbench_bcos", *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{what}: exit status {os.waitstatus_to_exitcode(status)}")
    unit = 1 if sys.platform == "darwin" else 1024
    return Measured(what, time.perf_counter() - started, usage.ru_maxrss * unit / MEBIBYTE, budget)


def make_folder(root: Path, images: int) -> None:
    """Random 32x32 pictures in ten class folders."""
    import torch
    from torchvision.utils import save_image

    random = torch.Generator().manual_seed(0)
    for index in range(images):
        folder = root / str(index % 10)
        folder.mkdir(parents=True, exist_ok=True)
        save_image(torch.rand(3, 32, 32, generator=random), folder / f"{index:05d}.png")


def streaming(folder: Path) -> list[Measured]:
    """One random draw per image on a random ResNet-20: what grows with the number of images would show here."""
    import torch

    from robustbench_bcos.model_zoo.architectures import build_architecture, initialise
    from robustbench_bcos.model_zoo.weights import write_weights

    pictures, weights = folder / "pictures", folder / "random.safetensors"
    make_folder(pictures, 10_000)
    network = build_architecture("resnet20", in_channels=3, classes=10, arguments={})
    initialise(network, torch.Generator().manual_seed(0))
    write_weights(network, weights)
    command = ["run", "--weights", str(weights), "--architecture", "resnet20", "--dataset", f"folder:{pictures}"]
    command += ["--attack", "noise", "--eps", "0.1", "--quiet"]
    return [
        measure(
            f"noise on {limit:,} streamed images",
            [*command, "--limit", str(limit), "--out", str(folder / str(limit))],
            "",
        )
        for limit in (1_000, 10_000)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        digits = ["run", "--norm", "l2", "--eps", "0.5", "--steps", "100", "--quiet", "--out", str(folder / "digits")]
        rows = [
            measure("--help", ["--help"], "0.5 s"),
            measure("models", ["models"], "1 s"),
            measure("run --norm l2 --eps 0.5 --steps 100", digits, "60 s, 1229 MiB"),
            *([] if quick else streaming(folder)),
        ]
    table = Table("command", "seconds", "peak MiB", "budget")
    for row in rows:
        table.add_row(row.what, f"{row.seconds:.2f}", f"{row.peak_mib:.0f}", row.budget)
    Console().print(table)
    machine = {"machine": platform.machine(), "cores": os.cpu_count(), "torch": version("torch")}
    print(json.dumps({**machine, "rows": [row._asdict() for row in rows]}))


if __name__ == "__main__":
    main()
