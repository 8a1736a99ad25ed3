"""Forward passes of AutoAttack's standard ensemble, ours beside its parts in torchattacks, on the same images.

    python benchmarks/ensemble.py --images 100

torchattacks' own AutoAttack runs 10 steps where 100 are published, so its parts are built with published numbers and
run as the published loop does: each on the images that still stand, which are predicted again in between.
"""

import argparse
import json
import warnings

import torch
from torch import Tensor, nn

import robustbench_bcos as rb
from robustbench_bcos.attacks.searches.autoattack import AutoAttack
from robustbench_bcos.data.opening import open_dataset
from robustbench_bcos.data.subset import EvalSubset

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
    """A model that counts the images passed through it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.images = 0
        # A new module is in training mode, and torchattacks puts all of it back into the mode it found.
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        self.images += len(images)
        logits: Tensor = self.model(images)
        return logits


def ours(model: nn.Module, images: Tensor, labels: Tensor, norm: str, epsilon: float) -> tuple[int, int]:
    counted = Counted(model)
    with torch.no_grad():
        right = counted(images).argmax(dim=1) == labels
    adversarials, _ = AutoAttack()(counted, images[right], labels[right], norm, epsilon)
    with torch.no_grad():
        standing = int((counted(adversarials).argmax(dim=1) == labels[right]).sum())
    return counted.images, standing


def theirs(model: nn.Module, images: Tensor, labels: Tensor, norm: str, epsilon: float) -> tuple[int, int]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torchattacks
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
    return counted.images, int(standing.sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    batch = EvalSubset.of(open_dataset("digits", "test"), arguments.images).batch(0, arguments.images)
    for name, norm, epsilon in SETTINGS:
        model = rb.load_model(name)
        passes, standing = ours(model, batch.images, batch.labels, norm, epsilon)
        peer_passes, peer_standing = theirs(model, batch.images, batch.labels, norm, epsilon)
        row = {
            "model": name,
            "norm": norm,
            "epsilon": epsilon,
            "standing": standing,
            "standing_torchattacks": peer_standing,
            "forward_passes_per_image": round(passes / arguments.images, 1),
            "forward_passes_per_image_torchattacks": round(peer_passes / arguments.images, 1),
            "share": round(passes / peer_passes, 3),
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
