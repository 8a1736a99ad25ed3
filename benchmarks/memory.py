"""Peak memory of a run on ImageNet's size, beside a bare loop of forward and backward passes at the same batch size.

    python benchmarks/memory.py                 # ResNet-50, 64 images of 224x224, 10 steps: minutes on two cores
    python benchmarks/memory.py --images 16 --steps 2

Weights and pictures are random. The bare loop is the least that any attack does: torchvision's network, its parameters
frozen, the gradient by the image, a step. Each is measured in a process of its own, imports included.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torchvision.models import resnet50
from torchvision.utils import save_image

MEBIBYTE = 2**20
PIXELS = 224
BIAS = 1e3
"""Logit of the first class above the other: every picture is classified correctly before the attack, and after it."""


def random_network() -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = resnet50(num_classes=2)
    with torch.no_grad():
        network.fc.bias[0] += BIAS
    return network


def bare(images: int, steps: int) -> None:
    """What is left of an attack without everything that makes it one."""
    network = random_network().eval().requires_grad_(False)
    pixels = torch.rand(images, 3, PIXELS, PIXELS, generator=torch.Generator().manual_seed(0))
    for _ in range(steps):
        logits = network(pixels.requires_grad_())
        (gradient,) = torch.autograd.grad(logits[:, 1].sum(), pixels)
        pixels = (pixels.detach() + 0.01 * gradient.sign()).clamp(0, 1)


def harness(folder: Path, images: int, steps: int, evidence: str) -> list[str]:
    """The command of a run whose images are all attacked in one batch."""
    random = torch.Generator().manual_seed(0)
    for index in range(images + 1):
        place = folder / "pictures" / ("0" if index else "1")
        place.mkdir(parents=True, exist_ok=True)
        save_image(torch.rand(3, PIXELS, PIXELS, generator=random), place / f"{index:03d}.png")
    torch.save(random_network().state_dict(), folder / "random.pth")
    command = ["-m", "robustbench_bcos", "run", "--weights", str(folder / "random.pth"), "--architecture", "resnet50"]
    command += ["--dataset", f"folder:{folder / 'pictures'}", "--norm", "l2", "--eps", "0.5", "--steps", str(steps)]
    command += ["--select", "last", "--batch-size", str(images), "--evidence", evidence, "--no-figures", "--quiet"]
    return [*command, "--out", str(folder / evidence)]


def peak(command: list[str]) -> tuple[float, float]:
    """Mebibytes and seconds of processor time."""
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command}: exit status {os.waitstatus_to_exitcode(status)}")
    unit = 1 if sys.platform == "darwin" else 1024
    return usage.ru_maxrss * unit / MEBIBYTE, usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--bare", action="store_true", help="be the bare loop")
    options = parser.parse_args()
    if options.bare:
        bare(options.images, options.steps)
        return
    size = ["--images", str(options.images), "--steps", str(options.steps)]
    with tempfile.TemporaryDirectory() as name:
        # A process inherits the peak of the one that starts it: this one's must stay below what it measures.
        commands = {
            "bare loop": [__file__, "--bare", *size],
            "run": harness(Path(name), options.images, options.steps, "off"),
            "run, with quick evidence": harness(Path(name), options.images, options.steps, "quick"),
        }
        measured = {what: peak(command) for what, command in commands.items()}
    least, _ = measured["bare loop"]
    table = Table("what", "peak MiB", "ratio", "processor s")
    for what, (mebibytes, seconds) in measured.items():
        table.add_row(what, f"{mebibytes:.0f}", f"{mebibytes / least:.2f}", f"{seconds:.0f}")
    Console().print(table)
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    machine = {"machine": platform.machine(), "cores": os.cpu_count(), "torch": version("torch"), "starter_mib": own}
    print(json.dumps({**machine, "images": options.images, "steps": options.steps, "peak_mib": measured}))


if __name__ == "__main__":
    main()
