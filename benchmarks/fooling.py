"""What a step of an attack on explanations costs beside its double backward pass alone.

    python benchmarks/fooling.py

The search as a run makes it, steps, projections, selection and all. Beside it a bare loop: a forward pass, the gradient
with its graph, and the gradient of a cosine of the map; for a network with rectifiers the softened one, and once more a
forward and a backward pass of the network as it is, which decides on iterates. Steps are many, so that the start and
the judge, which are not part of a step, weigh little.
"""

import argparse
from contextlib import nullcontext

import torch
from pairs import Claim, make_parser, parse, publish, take_turns
from torch import Tensor

from robustbench_bcos.attacks.searches.pgd import PGD
from robustbench_bcos.attacks.threat import Threat
from robustbench_bcos.bench.fooling import Fooling
from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.explanations.second_derivatives import Softened, has_rectifiers
from robustbench_bcos.model_zoo.architectures import build_architecture, initialise
from robustbench_bcos.model_zoo.bcos.explanation_mode import Gates, explanation_mode
from robustbench_bcos.model_zoo.classifier import ImageClassifier, freeze
from robustbench_bcos.model_zoo.encodings import ENCODINGS
from robustbench_bcos.model_zoo.models import own_model

TARGET = 1.10
THREAT = Threat.of("l2", 0.1)


class Bare:
    """The passes of a step, and nothing else."""

    def __init__(self, classifier: ImageClassifier, images: Tensor, steps: int) -> None:
        self.classifier, self.images, self.steps = classifier, images, steps
        self.softened = has_rectifiers(classifier, images[:1])
        self.bcos = not self.softened

    def __call__(self) -> float:
        reference, _ = self._map(self.images)
        total = 0.0
        for _ in range(self.steps):
            leaf = self.images.detach().requires_grad_()
            if self.softened:
                self._map(self.images)
            with Softened() if self.softened else nullcontext():
                moved, gates = self._map(leaf)
            gates.release()
            (gradient,) = torch.autograd.grad(torch.cosine_similarity(moved, reference).sum(), leaf)
            total += float(gradient.sum())
        return total

    def _map(self, images: Tensor) -> tuple[Tensor, Gates]:
        gates, network = Gates(), self.classifier.network
        encoded = self.classifier.encoding(images)
        if not images.requires_grad:
            encoded = encoded.detach().requires_grad_()
        with explanation_mode(network, gates) if self.bcos else nullcontext():
            logits = network(encoded)
            (weights,) = torch.autograd.grad(logits.amax(dim=1).sum(), encoded, create_graph=images.requires_grad)
        return (weights * encoded).sum(dim=1).flatten(1), gates


def compare(architecture: str, count: int, steps: int, pairs: int | None) -> Claim:
    bcos = architecture.startswith("bcos_")
    encoding = ENCODINGS["add_inverse" if bcos else "none"]()
    network = build_architecture(architecture, in_channels=encoding.channels, classes=10, arguments={})
    initialise(network, torch.Generator().manual_seed(0))
    classifier = freeze(ImageClassifier(encoding, network))
    images = torch.rand((count, 3, 32, 32), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        labels = classifier(images).argmax(dim=1)
    fooling = Fooling(
        model=own_model(architecture, classifier),
        method="dynamic_weights" if bcos else "input_x_gradient",
        softened=not bcos,
        band=None,
        batch_size=count,
    )
    target = fooling.target(
        "away", THREAT, images=images, labels=labels, others=images, rng=PerImageRng.of(0, range(count))
    )
    problem = target.problem(count)
    # One restart, and not one more from other starts.
    attack = PGD(steps=steps, start="random", select="best_loss")
    bare = Bare(classifier, images, steps)
    attack.solve(problem), bare()  # Not timed: this warms both up.
    turns = take_turns(lambda: attack.solve(problem), bare, pairs)
    claim = f"{architecture}, away, {steps} steps, {count} images of 32x32"
    return Claim.of(claim, "its double backward passes alone", turns, TARGET)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--architecture", default="bcos_resnet20,resnet20", help="with commas in between")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    options: argparse.Namespace = parse(parser)
    torch.set_num_threads(options.threads)
    pairs, count, steps = (1, 2, 2) if options.quick else (options.pairs, options.images, options.steps)
    names = options.architecture.split(",")
    publish("fooling", [compare(name, count, steps, pairs) for name in names], options)


if __name__ == "__main__":
    main()
