"""Explanations per second beside the official package, which explains one image at a time.

    python benchmarks/explaining.py [--images 256] [--batch 64] [--threads 2]

B-cos ResNet-56 on random 32x32 images, the same random weights in both networks, pictures included. The two take turns,
so that a busy machine slows both; the median of the rounds counts. Prints a table and one line of JSON, and fails if
the maps differ by more than 1e-5 of the largest contribution.
"""

import argparse
import json
import os
import platform
import statistics
import time
import warnings
from importlib.metadata import version
from typing import NamedTuple

import bcos.models.resnet
import torch
from bcos.modules import norms
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from robustbench_bcos import explain
from robustbench_bcos.explanations.colours import coloured
from robustbench_bcos.model_zoo.architectures import build_architecture, initialise
from robustbench_bcos.model_zoo.classifier import ImageClassifier, freeze
from robustbench_bcos.model_zoo.encodings import AddInverse

CLASSES = 10
ROUNDS = 3
OFFICIAL_IMAGES = 64
"""Images the official package explains in a round: one at a time, its rate does not depend on their number."""


class Rate(NamedTuple):
    what: str
    images_per_second: float


def make_networks() -> tuple[ImageClassifier, nn.Module]:
    """The same network twice: ours behind its encoding, and the official one."""
    network = build_architecture("bcos_resnet56", in_channels=6, classes=CLASSES, arguments={})
    initialise(network, torch.Generator().manual_seed(0))
    peer = bcos.models.resnet.cifar10_resnet56(
        num_classes=CLASSES, norm_layer=norms.NoBias(norms.BatchNormUncentered2d)
    )
    peer.load_state_dict(network.state_dict())
    return ImageClassifier(AddInverse(), freeze(network)), peer.eval()


def explain_in_batches(model: ImageClassifier, images: Tensor, batch: int) -> Tensor:
    maps = []
    for part in images.split(batch):
        explanation = explain(model, part)
        coloured(explanation, part, smooth=15)
        maps.append(explanation.contributions)
    return torch.cat(maps)


def explain_one_by_one(peer: nn.Module, images: Tensor) -> Tensor:
    maps = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Input tensor did not require grad")
        for image in torch.cat([images, 1 - images], dim=1).split(1):
            maps.append(peer.explain(image)["contribution_map"].detach())
    return torch.cat(maps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    images = torch.rand((asked.images, 3, 32, 32), generator=torch.Generator().manual_seed(1))
    model, peer = make_networks()
    ours, theirs = explain_in_batches(model, images[:8], 8), explain_one_by_one(peer, images[:8])
    difference = float((ours - theirs).abs().max() / theirs.abs().max())
    if difference > 1e-5:
        raise SystemExit(f"maps differ by {difference:.2g} of the largest contribution")
    seconds: dict[str, list[float]] = {"ours": [], "official": []}
    for _ in range(ROUNDS):
        began = time.perf_counter()
        explain_in_batches(model, images, asked.batch)
        seconds["ours"].append((time.perf_counter() - began) / asked.images)
        began = time.perf_counter()
        explain_one_by_one(peer, images[:OFFICIAL_IMAGES])
        seconds["official"].append((time.perf_counter() - began) / min(OFFICIAL_IMAGES, asked.images))
    rates = [
        Rate(f"robustbench_bcos, batch {asked.batch}", 1 / statistics.median(seconds["ours"])),
        Rate("bcos, one at a time", 1 / statistics.median(seconds["official"])),
    ]
    ratio = rates[0].images_per_second / rates[1].images_per_second
    table = Table("explained by", "images/s", title=f"ratio {ratio:.1f}, maps differ by {difference:.1g}")
    for rate in rates:
        table.add_row(rate.what, f"{rate.images_per_second:.1f}")
    Console().print(table)
    machine = {"machine": platform.machine(), "cores": os.cpu_count(), "torch": version("torch")}
    print(json.dumps({**machine, **vars(asked), "ratio": ratio, "rows": [rate._asdict() for rate in rates]}))


if __name__ == "__main__":
    main()
