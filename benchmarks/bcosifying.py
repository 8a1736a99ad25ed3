"""A B-cosified ResNet-56 beside its conventional source, and how long a conversion takes.

    python benchmarks/bcosifying.py [--batch 64] [--pairs 7] [--threads 2] [--no-vit]

Gradients by the image, eager, of random 32x32 images and random weights; a training step of both; and the seconds
that the conversion of torchvision's ViT-B/16 with random weights takes, proof on one image included. Fails if folding
changed a gradient by more than 1e-4 of the largest.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
import torchvision
from folding import calibrated, channels_last, demand_close, gradient, in_replicas, measure
from pairs import Claim, Turns, make_parser, parse, publish
from torch import Tensor, nn

from robustbench_bcos import bcosify, fold

SOURCE, SOURCE_FOLDED = "its source", "its source, folded"
UNFOLDED, FOLDED, SHARED = "B-cosified, unfolded", "B-cosified, folded", "B-cosified, folded, as run has it"
STEP, SOURCE_STEP = "a training step of the B-cosified network", "a training step of its source"

TARGETS: dict[tuple[str, str], float | None] = {
    (FOLDED, SOURCE): 1.15,
    (SHARED, SOURCE): None,
    (UNFOLDED, SOURCE): None,
    (SOURCE_FOLDED, SOURCE): None,
    (STEP, SOURCE_STEP): 1.6,
}
SECONDS = 5.0
"""That a conversion of ViT-B may take."""

CLASSES, SIZE = 10, 224


def training_step(network: nn.Module, inputs: Tensor) -> Callable[[], None]:
    """One of SGD, on a copy that is in training mode."""
    network.train().requires_grad_()
    optimiser = torch.optim.SGD(network.parameters(), lr=1e-9)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        network(inputs).logsumexp(dim=1).mean().backward()
        optimiser.step()

    return step


def turns_of(images: Tensor, threads: int) -> dict[str, Callable[[], object]]:
    source = calibrated("resnet56", images)
    classifier = bcosify(source, images=images[:2], encoding="none", logit_bias=0.0)
    encoded = classifier.encoding(images)
    network = classifier.network
    folded = channels_last(fold(network))
    last = encoded.contiguous(memory_format=torch.channels_last)
    demand_close(FOLDED, gradient(folded, last), gradient(network, encoded))
    turns: dict[str, Callable[[], object]] = {
        SOURCE: partial(gradient, source, images),
        SOURCE_FOLDED: partial(gradient, fold(source), images),
        UNFOLDED: partial(gradient, network, encoded),
        FOLDED: partial(gradient, folded, last),
        SHARED: partial(gradient, in_replicas(folded, threads), last),
    }
    others = calibrated("resnet56", images), bcosify(source, images=images[:2], encoding="none").network
    steps = zip((SOURCE_STEP, STEP), others, (images, encoded), strict=True)
    return turns | {name: training_step(one, inputs) for name, one, inputs in steps}


def conversion() -> Iterator[Claim]:
    """Of ViT-B/16, whose weights of the last layer are random too."""
    source = torchvision.models.vit_b_16(num_classes=CLASSES).eval()
    nn.init.normal_(source.heads.head.weight)
    image = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    began = time.perf_counter()
    made = bcosify(source, images=image, encoding="normalize:imagenet")
    seconds = time.perf_counter() - began
    note = f"logits differ by {made.conversion.proof.difference:.0e}"
    yield Claim("conversion of ViT-B/16, proof included", "", seconds, SECONDS, unit="s", note=note)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--no-vit", action="store_true")
    options = parse(parser)
    if options.quick:
        options.batch, options.pairs, options.no_vit = 2, 1, True
    torch.set_num_threads(options.threads)
    images = torch.rand((options.batch, 3, 32, 32), generator=torch.Generator().manual_seed(1))
    seconds = measure(turns_of(images, options.threads), options.pairs or 7)
    work = f"ResNet-56, batch {options.batch}"
    claims = [
        Claim.of(f"{name}, {work}", peer, Turns(seconds[name], seconds[peer]), target)
        for (name, peer), target in TARGETS.items()
    ]
    publish("bcosifying", [*claims, *([] if options.no_vit else conversion())], options)


if __name__ == "__main__":
    main()
