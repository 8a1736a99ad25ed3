"""Explanations per second beside the official package, which explains one image at a time.

    python benchmarks/explaining.py [--images 256] [--batch 64] [--threads 2] [--no-compile]

B-cos ResNet-56 on random 32x32 images, the same random weights in all networks, pictures included: as the model is
loaded, folded, and folded and compiled (which needs a C++ compiler, and half a minute before the clock starts); beside
them the network's convolutions alone, forward and backward, which is as fast as it can get. All take turns, so that a
busy machine slows all; the median of the rounds counts. Prints a table and one line of JSON, and fails if maps differ
by more than 1e-5 of the largest contribution.
"""

import argparse
import json
import os
import platform
import statistics
import time
import warnings
from importlib.metadata import version

import bcos.models.resnet
import torch
from bcos.modules import norms
from folding import convolutions
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from robustbench_bcos import explain, fold
from robustbench_bcos.explanations.colours import render
from robustbench_bcos.model_zoo.architectures import build_architecture, initialise
from robustbench_bcos.model_zoo.classifier import ImageClassifier, freeze
from robustbench_bcos.model_zoo.encodings import AddInverse

CLASSES = 10
ROUNDS = 5
OFFICIAL = "bcos, one at a time"
CONVOLUTIONS = "its convolutions alone"
OFFICIAL_IMAGES = 64
"""Images the official package explains in a round: one at a time, its rate does not depend on their number."""


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
        render(explanation, part, smooth=15)
        maps.append(explanation.contributions)
    return torch.cat(maps)


def explain_one_by_one(peer: nn.Module, images: Tensor) -> Tensor:
    maps = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Input tensor did not require grad")
        for image in torch.cat([images, 1 - images], dim=1).split(1):
            maps.append(peer.explain(image)["contribution_map"].detach())
    return torch.cat(maps)


def variants(model: ImageClassifier, *, compiled: bool) -> dict[str, ImageClassifier]:
    found = {"as loaded": model, "folded": fold(model)}
    if compiled:
        linear = fold(model, linear=True)
        linear.network = torch.compile(linear.network)
        found["folded, compiled"] = linear
    return found


def check(model: ImageClassifier, peer: nn.Module, images: Tensor, batch: int) -> float:
    """Largest difference between maps of the first images, as a share of the largest contribution."""
    few = images[: min(8, batch)]
    ours, theirs = explain_in_batches(model, images[:batch], batch)[: len(few)], explain_one_by_one(peer, few)
    difference = float((ours - theirs).abs().max() / theirs.abs().max())
    if difference > 1e-5:
        raise SystemExit(f"maps differ by {difference:.2g} of the largest contribution")
    return difference


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-compile", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    images = torch.rand((asked.images, 3, 32, 32), generator=torch.Generator().manual_seed(1))
    # The order of memory that convolutions on CPUs prefer.
    images = images.contiguous(memory_format=torch.channels_last)
    model, peer = make_networks()
    ours = variants(model, compiled=not asked.no_compile)
    differences = {name: check(variant, peer, images, asked.batch) for name, variant in ours.items()}
    alone = convolutions(model, images[: asked.batch])
    seconds: dict[str, list[float]] = {name: [] for name in (*ours, CONVOLUTIONS, OFFICIAL)}
    for _ in range(ROUNDS):
        for name, variant in ours.items():
            began = time.perf_counter()
            explain_in_batches(variant, images, asked.batch)
            seconds[name].append((time.perf_counter() - began) / len(images))
        began = time.perf_counter()
        alone()
        seconds[CONVOLUTIONS].append((time.perf_counter() - began) / min(asked.batch, len(images)))
        few = images[:OFFICIAL_IMAGES]
        # Sharing out single images among threads makes them slower: the peer gets what is best for it.
        torch.set_num_threads(1)
        began = time.perf_counter()
        explain_one_by_one(peer, few)
        seconds[OFFICIAL].append((time.perf_counter() - began) / len(few))
        torch.set_num_threads(asked.threads)
    rates = {name: 1 / statistics.median(found) for name, found in seconds.items()}
    table = Table("explained by", "images/s", "ratio", "maps differ by")
    for name, rate in rates.items():
        difference = f"{differences[name]:.1g}" if name in differences else ""
        table.add_row(name, f"{rate:.1f}", f"{rate / rates[OFFICIAL]:.1f}", difference)
    Console().print(table)
    machine = {"machine": platform.machine(), "cores": os.cpu_count(), "torch": version("torch")}
    print(json.dumps({**machine, **vars(asked), "images_per_second": rates}))


if __name__ == "__main__":
    main()
