"""Wall time and peak memory of whole commands, each in a process of its own.

    python benchmarks/footprint.py            # everything, about three minutes on two cores
    python benchmarks/footprint.py --quick    # few images, none streamed

Prints a table and one line of JSON. Targets are those a user on two CPU cores is promised, start-up included. A process
inherits the peak of the one that starts it, so torch is imported here only once the commands have been measured.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from builds import Spent, taken_by
from pairs import Claim, publish

CLOCK, MEMORY = "the clock", "peak memory"
FEW, MANY = 1_000, 10_000


class Measured(NamedTuple):
    what: str
    spent: Spent

    def claims(self, seconds: float | None, peak_mib: float | None = None) -> list[Claim]:
        """Its time and its memory, and the most that they may be."""
        return [
            Claim(self.what, CLOCK, self.spent.clock, seconds, unit="s"),
            Claim(self.what, MEMORY, self.spent.peak_mib, peak_mib, unit="MiB"),
        ]


def measure(what: str, arguments: list[str]) -> Measured:
    return Measured(what, taken_by([sys.executable, "-m", "robustbench_bcos", *arguments]))


def make_folder(root: Path, images: int) -> None:
    """Random 32x32 pictures in ten class folders."""
    import torch
    from torchvision.utils import save_image

    random = torch.Generator().manual_seed(0)
    for index in range(images):
        folder = root / str(index % 10)
        folder.mkdir(parents=True, exist_ok=True)
        save_image(torch.rand(3, 32, 32, generator=random), folder / f"{index:05d}.png")


def streaming(folder: Path) -> list[Claim]:
    """One random draw per image on a random ResNet-20: what grows with the number of images would show here."""
    import torch

    from robustbench_bcos.model_zoo.architectures import build_architecture, initialise
    from robustbench_bcos.model_zoo.checkpoints.write import write_weights

    pictures, weights = folder / "pictures", folder / "random.safetensors"
    make_folder(pictures, MANY)
    network = build_architecture("resnet20", in_channels=3, classes=10, arguments={})
    initialise(network, torch.Generator().manual_seed(0))
    write_weights(network, weights)
    command = ["run", "--weights", str(weights), "--architecture", "resnet20", "--dataset", f"folder:{pictures}"]
    # Checks examine more images the more there are, and fill their batches only then: they are left out.
    command += ["--attack", "noise", "--eps", "0.1", "--evidence", "off", "--quiet"]
    few, many = (
        measure(
            f"run --attack noise --evidence off, {limit:,} streamed pictures of 32x32",
            [*command, "--limit", str(limit), "--out", str(folder / str(limit))],
        )
        for limit in (FEW, MANY)
    )
    ratio = many.spent.peak_mib / few.spent.peak_mib
    return [
        *few.claims(None),
        *many.claims(None),
        Claim(f"peak memory of a cell of {MANY:,} images", f"of {FEW:,} images", ratio, 1.05),
    ]


def on_digits(folder: Path, *, quick: bool) -> list[Claim]:
    """The command that is shown first, with and without pictures, and with the steps that it has by default."""
    asked = ["run", "--norm", "l2", "--eps", "0.5"]
    full = [*asked, "--steps", "100"]
    small = {"run --limit 10 --steps 2": ([*asked, "--limit", "10", "--steps", "2", "--no-figures"], (None, None))}
    runs: dict[str, tuple[list[str], tuple[float | None, float | None]]] = (
        small
        if quick
        else {
            "run --norm l2 --eps 0.5 --no-figures": ([*asked, "--no-figures"], (20.0, None)),
            "run --norm l2 --eps 0.5 --steps 100 --no-figures": ([*full, "--no-figures"], (20.0, None)),
            "run --norm l2 --eps 0.5 --steps 100": (full, (60.0, 1229.0)),
        }
    )
    claims = []
    for number, (what, (command, promised)) in enumerate(runs.items()):
        claims += measure(what, [*command, "--quiet", "--out", str(folder / str(number))]).claims(*promised)
    return claims


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    claims = [*measure("--help", ["--help"]).claims(0.5), *measure("models", ["models"]).claims(1.0)]
    with tempfile.TemporaryDirectory() as name:
        claims += on_digits(Path(name) / "digits", quick=options.quick)
        if not options.quick:
            claims += streaming(Path(name))
    publish("footprint", claims, options)


if __name__ == "__main__":
    main()
