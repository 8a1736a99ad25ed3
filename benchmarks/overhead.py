"""What a run costs beside its forward and backward passes alone.

    python benchmarks/overhead.py

A whole cell, its store in memory: the clean predictions, the attack, the judge; a run loads and folds a model once,
which is not timed. Beside it a bare loop that passes as many images as often through the same copy, forward and back,
and through the model itself as often as the clean predictions and the judge do, and does nothing else: no loss, no
step, no projection. The radius is so small that no image is broken, so all are in it to the end.
"""

import argparse

import torch
from pairs import Claim, Turns, make_parser, parse, publish, take_turns
from subjects import BATCH, add_options, make_own_run, make_run
from torch import Tensor

from robustbench_bcos.bench.cells import Cell
from robustbench_bcos.bench.request import Request
from robustbench_bcos.bench.runner import execute
from robustbench_bcos.bench.store import Store
from robustbench_bcos.core.prediction import predicted_classes
from robustbench_bcos.model_zoo.architectures import build_architecture, initialise
from robustbench_bcos.model_zoo.classifier import ImageClassifier, freeze
from robustbench_bcos.model_zoo.encodings import AddInverse
from robustbench_bcos.model_zoo.models import Model, own_model

TARGET = 1.03
TINY = "1e-4"


def carry_out(request: Request) -> int:
    """Images that were broken although none should have been."""
    with Store() as store:
        for _ in execute(request, store):
            pass
        sums = store.sums(request.cells[0])
    return sums.broken


class Bare:
    """The passes of a cell in which no image is broken."""

    def __init__(self, request: Request) -> None:
        self.model: Model = request.models.get(request.sources[0])
        self.cell: Cell = request.cells[0]
        self.batches: list[tuple[Tensor, Tensor]] = []
        for batch in request.subset.batches(BATCH):
            images, labels, _ = batch.on(request.device)
            right = predicted_classes(self.model.classifier(images)) == labels
            self.batches.append((images, images[right]))

    def __call__(self) -> float:
        total = 0.0
        for clean, images in self.batches:
            with torch.no_grad():
                self.model.classifier(clean)
            for _ in range(self.cell.attack.effort):
                leaf = images.detach().requires_grad_()
                logits = self.model.attack_model(leaf)
                (gradient,) = torch.autograd.grad(logits, leaf, torch.ones_like(logits))
            with torch.no_grad():
                self.model.attack_model(images)
                self.model.classifier(images)
            total += float(gradient.sum())
        return total


def of_the_zoo(name: str, options: argparse.Namespace, steps: int) -> Request:
    limit = 20 if options.quick else None
    return make_run(options, model=(name,), norm=("l2",), eps=(TINY,), steps=(steps,), limit=limit)


def of_random_pictures(architecture: str, count: int, steps: int) -> Request:
    """A random network on 32x32 pictures, which are labelled as it sees them."""
    network = build_architecture(architecture, in_channels=6, classes=10, arguments={})
    initialise(network, torch.Generator().manual_seed(0))
    classifier = ImageClassifier(AddInverse(), freeze(network))
    images = torch.rand((count, 3, 32, 32), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        labels = classifier(images).argmax(dim=1)
    model = own_model(architecture, classifier)
    return make_own_run({architecture: model}, images, labels, 10, norm=("l2",), eps=(TINY,), steps=(steps,))


def compare(request: Request, pairs: int | None, threads: int) -> Claim:
    torch.set_num_threads(threads)
    # As `run` does, which has one for small images.
    torch.set_num_threads(request.threads)
    bare = Bare(request)
    # Not timed: this warms both up, too.
    broken, _ = carry_out(request), bare()
    turns: Turns = take_turns(lambda: carry_out(request), bare, pairs)
    cell, (_, height, width) = request.cells[0], request.subset.image_shape
    claim = f"{cell.model}, l2, {cell.attack.effort} steps, {len(request.subset)} images of {height}x{width}"
    return Claim.of(claim, "its passes alone", turns, TARGET)._replace(note=f"{broken} broken" if broken else "")


def main() -> None:
    parser = make_parser(__doc__)
    add_options(parser)
    parser.add_argument("--model", default="digits-adv-l2,digits-bcos-b2", help="of the zoo, with commas in between")
    parser.add_argument("--random", default="bcos_resnet20", help="architecture of random weights; none leaves it out")
    parser.add_argument("--images", type=int, default=512, help="random pictures for it")
    options = parse(parser)
    pairs, steps = (1, 3) if options.quick else (None, 100)
    requests = [of_the_zoo(name, options, steps) for name in options.model.split(",")]
    if options.random != "none":
        count, steps = (8, 2) if options.quick else (options.images, 20)
        requests.append(of_random_pictures(options.random, count, steps))
    publish("overhead", [compare(request, pairs, options.threads) for request in requests], options)


if __name__ == "__main__":
    main()
