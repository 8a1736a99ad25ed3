"""What the common binary cross-entropy loses where a network is sure: the published attack and ours, on larger logits.

    python benchmarks/saturation.py --dataset folder:DIR --model cifar10jpeg-bcos-b2-resnet20 --limit 200

All logits are multiplied by a factor, which changes no prediction and no border between classes: it is what longer
training, or another temperature, does to a network. All attacks see pixels and take the same steps of the same length
from the image. ``common`` is the loss as it is commonly written, in float32, with MadryLab's steps and the iterate of
highest loss. The others are this project's PGD: with a BCE that does not round, and with the margin, which leaves
equally many images whatever the factor. Prints a table in Markdown, images that stand.
"""

import argparse
from collections.abc import Iterator

import torch
from pairs import parse
from peers import PEER_NORMS, best_of_madrylab
from reproduction import common_bce
from subjects import Attacked, add_options, find_model, right_images, standing
from torch import Tensor, nn

from robustbench_bcos.attacks.searches.pgd import PGD
from robustbench_bcos.bench.fast_copy import make_fast_copy

FACTORS = (1.0, 2.0, 4.0, 8.0, 16.0)
OURS = ("bce", "margin")
"""Losses."""


class Sharpened(nn.Module):
    """A classifier whose logits are larger."""

    def __init__(self, classifier: nn.Module, factor: float) -> None:
        super().__init__()
        self.classifier = classifier
        self.factor = factor

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(images)
        return self.factor * logits


def attacked(chosen: Attacked, factor: float, norm: str, epsilon: float, steps: int) -> tuple[float, dict[str, int]]:
    """The median of the true logits, and images that stand, by attack."""
    searched = Sharpened(chosen.model.attack_model, factor)
    logits, counts = [], dict.fromkeys(("common", *OURS), 0)
    for images, labels in chosen.batches():
        with torch.no_grad():
            logits.append(searched(images).gather(1, labels[:, None]))
        adversarials = {
            "common": best_of_madrylab(lambda x, y=labels: common_bce(searched(x), y), images, norm, epsilon, steps)
        }
        for name in OURS:
            attack = PGD(steps=steps, loss=name)
            adversarials[name] = attack(searched, images, labels, norm, epsilon).adversarials
        for name, found in adversarials.items():
            counts[name] += int(standing(chosen.model.classifier, found, labels).sum())
    return float(torch.cat(logits).median()), counts


def lines(chosen: Attacked, options: argparse.Namespace) -> Iterator[str]:
    yield f"| factor | median true logit | common, of {len(chosen.images)} | ours, bce | ours, margin |"
    yield "|---|---|---|---|---|"
    for factor in options.factor:
        logit, counts = attacked(chosen, factor, options.norm, options.eps, options.steps)
        yield f"| {factor:g} | {logit:.1f} | {' | '.join(map(str, counts.values()))} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--model", default="digits-bcos-b2")
    parser.add_argument("--limit", type=int, default=200, help="images that are classified correctly")
    parser.add_argument("--factor", type=float, nargs="+", default=FACTORS)
    parser.add_argument("--norm", default="l2", choices=PEER_NORMS)
    parser.add_argument("--eps", type=float, default=0.5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    options = parse(parser)
    torch.set_num_threads(options.threads)
    chosen = right_images(find_model(options.model, options), options, options.limit)
    for line in lines(chosen._replace(model=make_fast_copy(chosen.model)), options):
        print(line, flush=True)


if __name__ == "__main__":
    main()
