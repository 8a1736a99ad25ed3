"""A B-cosified ResNet-56 beside its conventional source, and how long a conversion takes.

    python benchmarks/bcosifying.py [--batch 64] [--pairs 7] [--threads 2] [--no-vit]

Gradients by the image, eager, of random 32x32 images and random weights; a training step of both; and the time and
memory that the conversion of torchvision's ViT-B/16 with random weights takes, proof on one image included. Fails if
folding changed a gradient by more than 1e-4 of the largest.
"""

import resource
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
import torchvision
from folding import asked, calibrated, channels_last, compare, demand_close, gradient, in_replicas, measure
from pairs import Claim, publish
from torch import Tensor, nn

from robustbench_bcos import bcosify, fold
from robustbench_bcos.model_zoo.bcosify.proof import answers
from robustbench_bcos.model_zoo.classifier import ImageClassifier, freeze
from robustbench_bcos.model_zoo.encodings import parse_encoding

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
SECONDS, MEMORY = 5.0, 1.2
"""What a conversion of ViT-B may take; memory is in multiples of its weights, and beside them."""

CLASSES, SIZE = 10, 224
UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes, in which a process is told its peak."""


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
    """Of ViT-B/16, whose weights of the last layer are random too; first of all, because peaks are a process's."""
    source = freeze(torchvision.models.vit_b_16(num_classes=CLASSES))
    nn.init.normal_(source.heads.head.weight)
    image = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    encoding = parse_encoding("normalize:imagenet")
    answers(ImageClassifier(encoding, source), image)
    before = _peak()
    began, processor = time.perf_counter(), time.process_time()
    made = bcosify(source, images=image, encoding=encoding)
    seconds, processor = time.perf_counter() - began, time.process_time() - processor
    above = (_peak() - before) / sum(parameter.nbytes for parameter in source.parameters())
    began = time.process_time()
    answers(ImageClassifier(encoding, source), image)
    answers(made, image)
    proof = time.process_time() - began
    note = (
        f"{processor:.1f} s of processors, {proof:.1f} s of them for logits of either network in either precision, "
        f"which differ by {made.conversion.proof.difference:.0e}"
    )
    yield Claim("conversion of ViT-B/16, proof included", "", seconds, SECONDS, unit="s", note=note)
    yield Claim("peak memory of it", "its weights", above, MEMORY)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT


def main() -> None:
    options, images = asked(__doc__, "vit")
    conversions = list(conversion()) if options.vit else []
    seconds = measure(turns_of(images, options.threads), options.pairs)
    publish("bcosifying", [*compare(seconds, TARGETS, f"ResNet-56, batch {options.batch}"), *conversions], options)


if __name__ == "__main__":
    main()
