"""What a step of an attack costs at fixed texts beside the image tower's own passes, and maps of 16 texts beside one.

    python benchmarks/texts.py

A B-cos ResNet-20 as image tower, with random weights, and 16 texts. The attack is l2 PGD as ``run`` makes it, on the
fast copy, with its loss, projection and selection. Beside it a loop of nothing but the same passes of the same tower: a
forward and a backward one for each step, and a forward one for the last iterate. Maps are those of ``explain`` of one
image.
"""

import argparse
import time

import torch
from pairs import Claim, make_parser, parse, publish, take_turns
from torch import Tensor

from robustbench_bcos import explain
from robustbench_bcos.attacks.searches.pgd import PGD
from robustbench_bcos.attacks.threat import Threat
from robustbench_bcos.bench.fast_copy import make_fast_copy
from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.model_zoo.architectures import build_architecture, initialise
from robustbench_bcos.model_zoo.classifier import ImageClassifier, freeze
from robustbench_bcos.model_zoo.encodings import AddInverse
from robustbench_bcos.model_zoo.models import own_model
from robustbench_bcos.model_zoo.zero_shot import ZeroShotNetwork

TEXTS, WIDTH = 16, 384
STEP, MAPS = 1.05, 2.5
THREAT = Threat.of("l2", 1e-3)


def make_classifier() -> ImageClassifier:
    drawn = torch.Generator().manual_seed(0)
    tower = build_architecture("bcos_resnet20", in_channels=6, classes=WIDTH, arguments={"logit_bias": 0.0})
    initialise(tower, drawn)
    network = ZeroShotNetwork(tower, torch.randn(TEXTS, WIDTH, generator=drawn), scale=10.0)
    return freeze(ImageClassifier(AddInverse(), network))


def step(classifier: ImageClassifier, count: int, steps: int, pairs: int | None) -> Claim:
    """So few images fall at the radius that all are in every step."""
    images = torch.rand((count, 3, 32, 32), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        labels = classifier(images).argmax(dim=1)
    copy = make_fast_copy(own_model("texts", classifier)).attack_model
    assert isinstance(copy, ImageClassifier)
    assert isinstance(copy.network, ZeroShotNetwork)
    encoding, tower = copy.encoding, copy.network.tower
    attack = PGD(steps=steps, loss="ce", start="image", select="best_loss")

    def ours() -> Tensor:
        rng = PerImageRng.of(0, range(count))
        return attack(copy, images, labels, THREAT.norm, THREAT.radius, rng=rng).adversarials

    def bare() -> float:
        total = 0.0
        for _ in range(steps):
            leaf = images.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(tower(encoding(leaf)).sum(), leaf)
            total += float(gradient[0, 0, 0, 0])
        with torch.no_grad():
            return total + float(tower(encoding(images)).sum())

    ours(), bare()  # Not timed: this warms both up.
    turns = take_turns(ours, bare, pairs)
    claim = f"l2 PGD, {steps} steps, {count} images of 32x32, {TEXTS} texts"
    return Claim.of(claim, "the image tower's own passes", turns, STEP)


def maps(classifier: ImageClassifier, often: int, pairs: int | None) -> Claim:
    image = torch.rand((1, 3, 32, 32), generator=torch.Generator().manual_seed(2))

    def explained(texts: int) -> None:
        for _ in range(often):
            explain(classifier, image, [list(range(texts))])

    explained(1), explained(TEXTS)
    turns = take_turns(lambda: explained(TEXTS), lambda: explained(1), pairs, time.process_time)
    return Claim.of(f"maps of {TEXTS} texts of one image", "the map of one text", turns, MAPS)


def main() -> None:
    parser: argparse.ArgumentParser = make_parser(__doc__)
    options = parse(parser)
    torch.set_num_threads(options.threads)
    count, steps, often, pairs = (2, 2, 1, 1) if options.quick else (64, 30, 10, options.pairs)
    classifier = make_classifier()
    publish("texts", [step(classifier, count, steps, pairs), maps(classifier, often, pairs)], options)


if __name__ == "__main__":
    main()
