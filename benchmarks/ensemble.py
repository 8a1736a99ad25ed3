"""Passes and CPU seconds beside AutoAttack's standard ensemble as torchattacks has its parts, on the same images.

    python benchmarks/ensemble.py --images 100                                # our ensemble, in forward passes
    python benchmarks/ensemble.py --of command --model digits-adv-linf --images 30   # the default search with evidence

Of the default command all passes count, forward and backward, of its evidence, too; both take turns in one process, on
a clock that counts this process's CPU seconds alone. Images are robust that nothing of the search or evidence breaks.
torchattacks' own AutoAttack runs 10 steps where 100 are published, so its parts are built with published numbers and
run as the published loop does: each on the images that still stand, which are predicted again in between.
"""

import argparse
import json
import time
import warnings
from statistics import median

import torch
from pairs import take_turns
from torch import Tensor, nn

import robustbench_bcos as rb
from robustbench_bcos.attacks.searches.autoattack import AutoAttack
from robustbench_bcos.bench.configured import make_config
from robustbench_bcos.bench.evidence.trust import Judgement
from robustbench_bcos.bench.request import make_request
from robustbench_bcos.bench.runner import execute
from robustbench_bcos.bench.store import Store
from robustbench_bcos.data.opening import open_dataset
from robustbench_bcos.data.subset import EvalSubset

with warnings.catch_warnings():
    # Escapes in docstrings.
    warnings.simplefilter("ignore")
    import torchattacks

SETTINGS = (
    ("digits-natural", "l2", 0.5),
    ("digits-natural", "l2", 1.5),
    ("digits-natural", "linf", 0.1),
    ("digits-adv-l2", "l2", 0.5),
    ("digits-adv-linf", "linf", 0.1),
    ("digits-bcos-b2", "l2", 0.5),
    ("digits-bcos-b2", "linf", 0.2),
)
PEER_NORMS = {"l2": "L2", "linf": "Linf"}


class Counted(nn.Module):
    """A model that counts the images passed through it, forward and back."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.images = 0
        self.backward = 0
        # A new module is in training mode, and torchattacks puts all of it back into the mode it found.
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        self.images += len(images)
        logits: Tensor = self.model(images)
        if logits.requires_grad:
            # Each time that a gradient comes back this way: FAB asks for one of every class.
            logits.register_hook(lambda gradient: self._count(len(gradient)))
        return logits

    def _count(self, images: int) -> None:
        self.backward += images


def ours(model: nn.Module, images: Tensor, labels: Tensor, norm: str, epsilon: float) -> tuple[int, int]:
    counted = Counted(model)
    with torch.no_grad():
        right = counted(images).argmax(dim=1) == labels
    adversarials, _ = AutoAttack()(counted, images[right], labels[right], norm, epsilon)
    with torch.no_grad():
        standing = int((counted(adversarials).argmax(dim=1) == labels[right]).sum())
    return counted.images, standing


def command(name: str, images: int, norm: str, epsilon: float) -> tuple[int, int, str]:
    """The default command: passes, images that are robust after all, and whether the row is sound."""
    config = {"model": (name,), "norm": (norm,), "eps": (repr(epsilon),), "limit": images, "explained": 0}
    request = make_request(make_config({**config, "figures": False, "device": "cpu"}))
    (cell,) = request.cells
    with Store() as store:
        for _ in execute(request, store):
            pass
        trust, sums = Judgement(store, request.identity).of(cell), store.sums(cell)
    return sums.forward_passes + sums.backward_passes + trust.passes, trust.worst_correct, trust.trust


def theirs(model: nn.Module, images: Tensor, labels: Tensor, norm: str, epsilon: float) -> tuple[Counted, int]:
    counted = Counted(model)
    shared = {"norm": PEER_NORMS[norm], "eps": epsilon}
    parts = (
        torchattacks.APGD(counted, steps=100, loss="ce", **shared),
        torchattacks.APGDT(counted, steps=100, n_classes=10, **shared),
        torchattacks.FAB(counted, steps=100, multi_targeted=True, n_classes=10, **shared),
        torchattacks.Square(counted, n_queries=5000, resc_schedule=False, **shared),
    )
    with torch.no_grad():
        standing = counted(images).argmax(dim=1) == labels
    for part in parts:
        active = standing.nonzero().squeeze(1)
        if len(active) == 0:
            break
        candidates = part(images[active].contiguous(), labels[active])
        with torch.no_grad():
            standing[active] = counted(candidates).argmax(dim=1) == labels[active]
    return counted, int(standing.sum())


def of_ensemble(name: str, images: Tensor, labels: Tensor, norm: str, epsilon: float) -> dict[str, object]:
    """Our ensemble in forward passes."""
    model = rb.load_model(name)
    passes, standing = ours(model, images, labels, norm, epsilon)
    peer, peer_standing = theirs(model, images, labels, norm, epsilon)
    return {
        "standing": standing,
        "standing_torchattacks": peer_standing,
        "forward_passes_per_image": round(passes / len(images), 1),
        "forward_passes_per_image_torchattacks": round(peer.images / len(images), 1),
        "share": round(passes / peer.images, 3),
    }


def of_command(name: str, images: Tensor, labels: Tensor, norm: str, epsilon: float, pairs: int) -> dict[str, object]:
    """The default command in all passes and in seconds, turn by turn."""
    model = rb.load_model(name)
    found, peer = [], []
    # What is loaded and imported once is no part of it.
    command(name, 2, norm, epsilon)
    turns = take_turns(
        lambda: found.append(command(name, len(images), norm, epsilon)),
        lambda: peer.append(theirs(model, images, labels, norm, epsilon)),
        pairs,
        time.process_time,
    )
    passes, standing, trust = found[0]
    peer_passes = peer[0][0].images + peer[0][0].backward
    return {
        "robust": standing,
        "trust": trust,
        "robust_torchattacks": [standing for _, standing in peer],
        "passes_per_image": round(passes / len(images), 1),
        "passes_per_image_torchattacks": round(peer_passes / len(images), 1),
        "share_of_passes": round(passes / peer_passes, 4),
        "cpu_seconds": [round(seconds, 1) for seconds in turns.ours],
        "cpu_seconds_torchattacks": [round(seconds, 1) for seconds in turns.theirs],
        "share_of_seconds": round(median(turns.ratios), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--of", choices=("ensemble", "command"), default="ensemble", help="what is compared")
    parser.add_argument("--model", help="of the settings those of one model (by default all)")
    parser.add_argument("--pairs", type=int, default=2, help="of turns of the command (2)")
    given = parser.parse_args()
    torch.set_num_threads(1)
    batch = EvalSubset.of(open_dataset("digits", "test"), given.images).batch(0, given.images)
    for name, norm, epsilon in SETTINGS:
        if given.model not in (None, name):
            continue
        asked = (name, batch.images, batch.labels, norm, epsilon)
        row = of_command(*asked, given.pairs) if given.of == "command" else of_ensemble(*asked)
        print(json.dumps({"model": name, "norm": norm, "epsilon": epsilon, **row}), flush=True)


if __name__ == "__main__":
    main()
