#!/usr/bin/env bash
# secml-torch's own PGD in l1 moves one image of a batch, and one step of it moves none, in any norm.
#
# Version: secml-torch 1.5 with torch 2.14.1.
# Guess: in l1 a step goes to the largest entry of each image's gradient, and what an image becomes does not depend on
#   the others; one step of half of epsilon is better than none.
# Behaviour: the largest entry is looked for in the whole batch, so that one image has it and the others stay. The image
#   is judged before the step and not after the last, so that N steps give what N - 1 gave.
# Output seen: of 64 images against a linear network, l1, epsilon 4, 100 steps: in batches of 64, 8 and 1, moved 1, 8 and
#   64, robust 63, 60 and 52; in l2 16 robust whatever the batch. With one step no image moves, in l1, l2 and linf.
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.14.1 torchvision==0.29.1 secml-torch==1.5 numpy==2.4.6
cat > "$folder/batches.py" <<'PYTHON'
import torch
from secmlt.adv.evasion.pgd import PGD
from secmlt.models.pytorch.base_pytorch_nn import BasePyTorchClassifier
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3)).eval()
images = torch.rand(64, 1, 8, 8)
labels = network(images).argmax(dim=1)
model = BasePyTorchClassifier(network)


def attacked(norm, epsilon, size, steps=100, part=0.1):
    """How many images are robust, and how many moved."""
    attack = PGD(norm, epsilon, steps, part * epsilon, random_start=False, lb=0.0, ub=1.0, backend="native")
    batches = attack(model, DataLoader(TensorDataset(images, labels), batch_size=size))
    found = torch.cat([batch[0] for batch in batches])
    moved = int((found != images).flatten(1).any(dim=1).sum())
    return int((network(found).argmax(dim=1) == labels).sum()), moved


epsilons = {"l1": 4.0, "l2": 0.5, "linf": 0.05}
by_batch = {norm: [attacked(norm, epsilons[norm], size) for size in (64, 8, 1)] for norm in ("l1", "l2")}
one = {norm: attacked(norm, epsilon, 64, 1, 0.5) for norm, epsilon in epsilons.items()}
print(f"robust and moved, in batches of 64, 8 and 1: {by_batch}; with one step: {one}")
assert [moved for _, moved in by_batch["l1"]] == [1, 8, 64]
assert by_batch["l1"][0][0] >= 63 and by_batch["l1"][2][0] < 55
assert len(set(by_batch["l2"])) == 1 and by_batch["l2"][0][0] < 20
assert set(one.values()) == {(64, 0)}
PYTHON
"$folder/env/bin/python" "$folder/batches.py"
