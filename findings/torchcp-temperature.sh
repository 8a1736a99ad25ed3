#!/usr/bin/env bash
# torchcp's temperature is the right one divided by the temperature that its search was started from.
#
# Version: torchcp 1.2.1 (its trainers alone) with torch 2.13.0 and numpy 2.4.6.
# Guess: temperature scaling (Guo et al., 2017) is a convex problem in one number, and the trainer ends at its minimum
#   from any start, which it asks to be given, after the 100 steps of its default.
# Behaviour: the logits that it scales come from the wrapped network, which has divided them by the start already; the
#   temperature found is put in its place afterwards. Besides, LBFGS without a line search at the default rate of 0.01 is
#   still on its way after 100 steps, and stays near the start.
# Output seen: 4,000 images whose logits are twice those that drew the labels, so that 2 is right, and by bisection 2.01:
#   steps of 0.1, 500 of them, from 0.5 give 4.01, from 1 2.01, from 1.5 1.34; defaults give 0.82, 1.36, 1.39.
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 scikit-learn==1.9.1 scipy==1.17.1 tqdm==4.70.1
"$folder/env/bin/pip" install --quiet --no-deps torchcp==1.2.1
cat > "$folder/temperature.py" <<'PYTHON'
import importlib.util
import sys
import types

import torch
from scipy.optimize import brentq
from torch.utils.data import DataLoader, TensorDataset

# The package as a whole imports graph and language libraries, and a loss that has to be compiled.
paths = importlib.util.find_spec("torchcp").submodule_search_locations
sys.modules["torchcp"] = types.ModuleType("torchcp")
sys.modules["torchcp"].__path__ = paths
sys.modules["torchsort"] = types.ModuleType("torchsort")
sys.modules["torchsort"].soft_rank = sys.modules["torchsort"].soft_sort = None
from torchcp.classification.trainer import TSTrainer  # noqa: E402

IMAGES, CLASSES = 4000, 5
torch.manual_seed(0)
torch.set_num_threads(1)
honest = 2 * torch.randn(IMAGES, CLASSES)
labels = torch.multinomial(honest.softmax(dim=1), 1)[:, 0]
logits = 2 * honest


def slope(inverse):
    """Derivative of the negative log likelihood by the inverse temperature, in which it is convex."""
    scaled = (logits * inverse).double()
    expected = (scaled.softmax(dim=1) * logits).sum(dim=1)
    return float((expected - logits.gather(1, labels[:, None])[:, 0]).mean())


exact = 1 / brentq(slope, 0.01, 10)


def trained(start, **options):
    network = torch.nn.Linear(CLASSES, CLASSES, bias=False)
    torch.nn.init.eye_(network.weight)
    trainer = TSTrainer(network, init_temperature=start, device="cpu", verbose=False)
    data = DataLoader(TensorDataset(logits, labels), batch_size=1000)
    return float(trainer.train(data, **options).temperature.detach())


starts = (0.5, 1.0, 1.5)
long = {start: trained(start, lr=0.1, num_epochs=500) for start in starts}
default = {start: trained(start) for start in starts}
for name, found in (("long", long), ("default", default)):
    print(f"{name}: {({start: round(value, 2) for start, value in found.items()})}, exact {exact:.2f}")
assert all(abs(value * start / exact - 1) < 0.02 for start, value in long.items())
assert all(abs(value / exact - 1) > 0.2 for value in default.values())
PYTHON
"$folder/env/bin/python" "$folder/temperature.py"
