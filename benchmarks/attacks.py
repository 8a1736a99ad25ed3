"""PGD beside torchattacks, foolbox and MadryLab's loop, on the same images, from images to verdicts.

    python benchmarks/attacks.py
    python benchmarks/attacks.py --dataset folder:DIR --model cifar10jpeg-natural-resnet20

100 steps of l2, 512 images that each model classifies correctly (digits are repeated), cross-entropy, step size 2.5 *
epsilon / steps, no random start, 256 images at a time. Ours is the attack as ``run`` uses it: it queries the fast copy,
broken images make room for others, and all that it finds is judged on the model itself. All have as many threads as
``run`` gives such images: one, if they are small, which is faster for each of them. The target depends on how many
images stay robust, because a broken one costs us nothing more: fewer than one in ten, or more than half. A target
counts as missed if our attack leaves more images robust than the peer's.
"""

from functools import partial
from typing import NamedTuple

import torch
from pairs import Claim, make_parser, parse, publish, take_turns
from peers import PEER_NORMS, PEERS, Peer, passes_of
from subjects import BATCH, Attacked, add_options, find_model, make_run, right_images, search, standing, target_of
from torch import Tensor

from robustbench_bcos.bench.cells import Cell, make_cells
from robustbench_bcos.bench.configured import make_config
from robustbench_bcos.bench.fast_copy import make_fast_copy

DIGITS = ("digits-natural", "digits-adv-l2", "digits-bcos-b2")
EPSILONS = {"digits-natural": "2", "cifar10jpeg-natural-resnet20": "1"}
"""At which nearly all images fall; at 0.5 most survive of robust models."""

FALLEN, ROBUST = 0.15, {"torchattacks": 1.0, "foolbox": 1.0, "MadryLab's loop": 0.6}


class Work(NamedTuple):
    attacked: Attacked
    cell: Cell

    def ours(self) -> tuple[Tensor, int]:
        """Which images stand, and images passed forward."""
        model, images, labels = self.attacked
        target = target_of(make_fast_copy(model, replicas=torch.get_num_threads()), images, labels, self.cell)
        judged = search(target, self.cell, model.loss, BATCH)
        return ~judged.verdicts.success, int(judged.trace.forward_passes.sum())

    def theirs(self, peer: Peer) -> Tensor:
        classifier, threat, found = self.attacked.model.classifier, self.cell.threat, []
        for images, labels in self.attacked.batches():
            adversarials = peer(classifier, images, labels, threat.norm, threat.radius, self.cell.attack.effort)
            found.append(standing(classifier, adversarials, labels))
        return torch.cat(found)


def compare(work: Work, pairs: int | None) -> list[Claim]:
    claims = []
    # Not timed: this warms both up, too.
    survivors, passes = work.ours()
    cell, images, stand = work.cell, len(survivors), int(survivors.sum())
    for name, peer in PEERS.items():
        standing_theirs = int(work.theirs(peer).sum())
        target = FALLEN if stand < 0.1 * images else ROBUST[name] if stand > 0.5 * images else None
        claim = f"{cell.model}, {cell.threat}, {cell.attack.effort} steps, {images} images"
        turns = take_turns(work.ours, partial(work.theirs, peer), pairs)
        numbers = {
            "standing": (stand, standing_theirs),
            "passes": (passes, passes_of(name, cell.attack.effort) * images),
        }
        claims.append(Claim.of(claim, name, turns, target, **numbers))
    return claims


def main() -> None:
    parser = make_parser(__doc__)
    add_options(parser)
    parser.add_argument("--model", action="append", help="as for run, several times; three of the digits zoo")
    parser.add_argument("--norm", choices=PEER_NORMS, default="l2")
    parser.add_argument("--eps", help="of all models; 0.5, or more for natural ones of the zoo")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--steps", type=int, default=100)
    options = parse(parser)
    torch.set_num_threads(options.threads)
    if options.quick:
        options.images, options.steps = min(options.images, 64), min(options.steps, 20)
    claims = []
    names = options.model or DIGITS
    torch.set_num_threads(make_run(options, model=tuple(names)).threads)
    for name in names:
        flags = {"norm": (options.norm,), "eps": (options.eps or EPSILONS.get(name, "0.5"),), "loss": ("ce",)}
        cell = make_cells(make_config(flags | {"steps": (options.steps,)}), [name])[0]
        attacked = right_images(find_model(name, options), options, options.images)
        claims += compare(Work(attacked, cell), 1 if options.quick else options.pairs)
    publish("attacks", claims, options)


if __name__ == "__main__":
    main()
