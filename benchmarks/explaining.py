"""Explanations, with their pictures, beside the official package's, which explains one image at a time.

    python benchmarks/explaining.py [--images 256] [--batch 64] [--pairs 5] [--threads 2] [--no-compile]

B-cos ResNet-56 on random 32x32 images, the same random weights in all networks: as the model is loaded, folded, shared
out to replica threads as `run` shares out its attacks, and that compiled (which needs a C++ compiler, and a minute
before the clock starts); beside them the network's convolutions alone, forward and back, in as many threads of their
own, which is as fast as it can get. The peer has one thread, with which it is fastest. All take turns, so that a busy
machine slows all, and each ratio is the median over these rounds. Fails if maps differ by more than 1e-5 of the largest
contribution.
"""

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import bcos.models.resnet
import torch
from bcos.modules import norms
from folding import FLOOR, compare, convolutions, in_replicas, measure
from pairs import make_parser, parse, publish
from torch import Tensor, nn

from robustbench_bcos import explain, fold
from robustbench_bcos.explanations.colours import render
from robustbench_bcos.model_zoo.architectures import build_architecture, initialise
from robustbench_bcos.model_zoo.classifier import ImageClassifier, freeze
from robustbench_bcos.model_zoo.encodings import AddInverse

CLASSES = 10
FEW = 8
"""Images whose maps are compared."""

OFFICIAL = "bcos, one at a time"
LOADED, FOLDED = "explain(model)", "explain(fold(model))"
SHARED, SHARED_COMPILED = "the same in replica threads", "the same in replica threads, compiled"

TARGETS: dict[tuple[str, str], float | None] = {
    (SHARED_COMPILED, OFFICIAL): 1 / 8,
    (SHARED_COMPILED, FLOOR): 1 / 0.9,
    (SHARED, OFFICIAL): None,
    (SHARED, FLOOR): None,
    (FOLDED, OFFICIAL): None,
    (LOADED, OFFICIAL): None,
    (FLOOR, OFFICIAL): None,
}
"""The most that ours may take of theirs; and what it takes to understand that."""


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
    threads = torch.get_num_threads()
    # Sharing out single images among threads makes them slower: the peer gets what is best for it.
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Input tensor did not require grad")
        for image in torch.cat([images, 1 - images], dim=1).split(1):
            maps.append(peer.explain(image)["contribution_map"].detach())
    torch.set_num_threads(threads)
    return torch.cat(maps)


def variants(model: ImageClassifier, threads: int, *, compiled: bool) -> dict[str, ImageClassifier]:
    folded = fold(model)
    found = {LOADED: model, FOLDED: folded}
    if threads > 1:
        found[SHARED] = ImageClassifier(folded.encoding, in_replicas(folded.network, threads))
    if compiled:
        linear = torch.compile(fold(model, linear=True).network)
        found[SHARED_COMPILED] = ImageClassifier(folded.encoding, in_replicas(linear, threads, compiled=True))
    return found


def demand_the_same_maps(model: ImageClassifier, peer: nn.Module, images: Tensor, batch: int) -> None:
    ours = explain_in_batches(model, images[:batch], batch)[:FEW]
    theirs = explain_one_by_one(peer, images[: len(ours)])
    difference = float((ours - theirs).abs().max() / theirs.abs().max())
    if difference > 1e-5:
        raise SystemExit(f"maps differ by {difference:.2g} of the largest contribution")


def convolutions_alone(model: ImageClassifier, batch: Tensor, times: int, threads: int) -> Callable[[], None]:
    """Of so many batches, each shared out among threads, in which torch has no others."""
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    tasks = [convolutions(model, share) for share in batch.tensor_split(threads)]

    def run() -> None:
        for _ in range(times):
            for waiting in [pool.submit(task) for task in tasks]:
                waiting.result()

    return run


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--images", type=int, default=256, help="a multiple of the batch (256)")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    options = parse(parser)
    if options.quick:
        options.images = options.batch = 4
        options.pairs, options.compile = 1, False
    torch.set_num_threads(options.threads)
    images = torch.rand((options.images, 3, 32, 32), generator=torch.Generator().manual_seed(1))
    # The order of memory that convolutions on CPUs prefer.
    images = images.contiguous(memory_format=torch.channels_last)
    model, peer = make_networks()
    ours = variants(model, options.threads, compiled=options.compile)
    for variant in ours.values():
        demand_the_same_maps(variant, peer, images, options.batch)
    turns: dict[str, Callable[[], object]] = {
        name: partial(explain_in_batches, variant, images, options.batch) for name, variant in ours.items()
    }
    turns[OFFICIAL] = partial(explain_one_by_one, peer, images)
    times = len(images) // options.batch
    turns[FLOOR] = convolutions_alone(model, images[: options.batch], times, options.threads)
    seconds = measure(turns, options.pairs or 5)
    claims = list(compare(seconds, TARGETS, f"B-cos ResNet-56, {options.images} images in batches of {options.batch}"))
    publish("explaining", claims, options)


if __name__ == "__main__":
    main()
