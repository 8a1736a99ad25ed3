"""Grids scored per second beside the official package, which explains one class of one grid at a time.

    python benchmarks/localising.py [--grids 4] [--threads 2] [--compile] [--quick]

B-cos ResNet-56 with the same random weights in both, 3x3 grids of random 32x32 images, the classes of nine cells
explained in each. Ours as ``localise`` does it: a folded copy, all classes of a batch of grids from one forward pass;
with ``--compile`` that copy compiled as well, which needs a C++ compiler and a minute before the clock starts. Theirs
as the package has it: ``explain`` for each class of each grid, then the official score; on one thread and on as many
as ours. Beside both the network's convolutions alone, once forward and nine times back, which no way of ours to make
nine maps can be faster than. On one thread, seconds of the processor are taken, too, which a busy machine leaves alone.
Fails if a score differs by more than 1e-5.
"""

import time
import warnings
from collections.abc import Callable
from functools import partial
from itertools import product

import torch
from explaining import CLASSES, make_networks
from folding import convolutions
from pairs import Claim, make_parser, parse, publish, take_turns
from torch import Tensor, nn

from robustbench_bcos import explain, fold, score_grids
from robustbench_bcos.localisation.playing import explained_copy
from robustbench_bcos.model_zoo.models import own_model

CELLS = 9
CONVOLUTIONS = "its convolutions alone"
TARGET = 1 / 6
"""The most that ours may take of theirs."""


def score_ours(model: nn.Module, grids: Tensor, targets: Tensor) -> Tensor:
    return score_grids(explain(model, grids, targets).contributions, "bcos_v2", smooth=1)


def score_theirs(peer: nn.Module, grids: Tensor, targets: Tensor) -> Tensor:
    """The official steps: a map for each class, positive parts, means of cells, columns first."""
    scores = []
    for grid, classes in zip(torch.cat([grids, 1 - grids], dim=1).split(1), targets, strict=True):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Input tensor did not require grad")
            maps = [peer.explain(grid, idx=label)["contribution_map"].detach() for label in classes.tolist()]
        positive = torch.stack(maps).clamp(min=0)
        means = (
            torch.nn.functional.avg_pool2d(positive, positive.shape[-1] // 3).permute(0, 1, 3, 2).reshape(CELLS, CELLS)
        )
        scores.append((means / means.sum(dim=1, keepdim=True)).diagonal())
    return torch.stack(scores)


def on_threads(threads: int, work: Callable[[], object]) -> object:
    torch.set_num_threads(threads)
    return work()


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--grids", type=int, default=4, help="of a batch (4)")
    parser.add_argument("--compile", action="store_true", help="also a compiled copy")
    options = parse(parser)
    count, side = (1, 24) if options.quick else (options.grids, 96)
    source = torch.Generator().manual_seed(1)
    grids = torch.rand((count, 3, side, side), generator=source)
    targets = torch.stack([torch.randperm(CLASSES, generator=source)[:CELLS] for _ in range(count)])
    model, peer = make_networks()
    ours = {"folded": explained_copy(own_model("bcos_resnet56", model))}
    if options.compile:
        linear = fold(model, linear=True)
        linear.network = torch.compile(linear.network)
        ours["folded, compiled"] = linear
    expected = score_theirs(peer, grids, targets)
    differences = {
        name: float((score_ours(copy, grids, targets) - expected).abs().max()) for name, copy in ours.items()
    }
    for name, difference in differences.items():
        if difference > 1e-5:
            raise SystemExit(f"{name}: scores differ by {difference:.2g}")
    work: dict[str, Callable[[], object]] = {
        name: partial(score_ours, copy, grids, targets) for name, copy in ours.items()
    }
    work[CONVOLUTIONS] = convolutions(model, grids.contiguous(memory_format=torch.channels_last), backward=CELLS)
    theirs = partial(score_theirs, peer, grids, targets)
    # Both on as many threads; theirs on one, which may be faster; and seconds of the processor, on one thread each.
    clocks = [(options.threads, threads, time.perf_counter) for threads in sorted({1, options.threads})]
    clocks.append((1, 1, time.process_time))
    claims = []
    for (own, others, clock), (name, turn) in product(clocks, work.items()):
        turns = take_turns(
            partial(on_threads, own, turn),
            partial(on_threads, others, theirs),
            1 if options.quick else options.pairs,
            clock,
        )
        seconds = "processor, " if clock is time.process_time else ""
        peer_name = f"bcos, one class at a time, {seconds}{others} thread{'s' * (others > 1)}"
        claim = Claim.of(f"{count} grids of 3x3, {name}", peer_name, turns, TARGET if name in ours else None)
        claims.append(claim._replace(note=f"scores differ by {differences[name]:.1g}" if name in ours else ""))
    publish("localising", claims, options)


if __name__ == "__main__":
    main()
