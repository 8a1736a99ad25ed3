#!/usr/bin/env bash
# Quantus' ROAD and Sensitivity-N leave out all images behind the first batch, and normalisation is over a whole batch.
#
# Version: quantus 0.6.0 with torch 2.14.1, numpy 2.4.6, scikit-image 0.26.0 and opencv-python 5.0.0.93.
# Guess: all images count, whatever the size of the batches (64 by default); a map is divided by its own maximum, as
#   "normalise attributions by the maximum absolute value of the explanation" reads, so that an image's effective
#   complexity is the same alone and beside others.
# Behaviour: ROAD's accuracies and Sensitivity-N's correlations are made from the first batch alone. Normalisation, on
#   by default, divides by the maximum over the batch: beside a map ten times as large, as that of a surer answer is
#   where maps sum to logits, the entries of a small one fall below the threshold.
# Output seen: 64 images that the network gets right, then 64 that it gets wrong: ROAD's accuracy without a pixel
#   removed 1.00 in batches of 64, 0.50 in one of 128. Sensitivity-N in batches of 64 changes by 0 where the last 64
#   maps become noise, in one of 128 by 0.74. Entries above a tenth of the largest (effective complexity with eps 0.1)
#   33 alone, 1 beside a map ten times as large.
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet quantus==0.6.0 torch==2.14.1 \
    numpy==2.4.6 scikit-image==0.26.0 scikit-learn==1.9.1 scipy==1.17.1 pandas==3.1.1 opencv-python==5.0.0.93
cat > "$folder/batches.py" <<'PYTHON'
import warnings

import numpy as np
import quantus
import torch

warnings.simplefilter("ignore")
IMAGES, FIRST, SIDE = 128, 64, 8
torch.manual_seed(0)
rng = np.random.default_rng(0)
weights = torch.randn(1, SIDE, SIDE)
images = rng.random((IMAGES, 1, SIDE, SIDE)).astype(np.float32)


class Linear(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weights = torch.nn.Parameter(weights)

    def forward(self, points):
        score = (points * self.weights).flatten(1).sum(dim=1)
        return torch.stack([score, -score], dim=1)


network = Linear().eval()
maps = images * weights.numpy()
right = network(torch.from_numpy(images)).argmax(dim=1).numpy()
labels = np.where(np.arange(IMAGES) < FIRST, right, 1 - right)
quiet = {"disable_warnings": True}


def score(metric, attributions, answers=labels, **options):
    given = {"x_batch": images[: len(attributions)].copy(), "y_batch": answers[: len(attributions)]}
    settings = {"channel_first": True, "softmax": False, "device": "cpu"} | options
    return metric(model=network, a_batch=attributions.copy(), **given, **settings)


def road(size):
    np.random.seed(0)
    # The first percentage removes less than a pixel, and so none.
    return float(score(quantus.ROAD(percentages=[1, 50], noise=0.0, **quiet), maps, batch_size=size)[1])


accuracies = {size: road(size) for size in (FIRST, IMAGES)}
print(f"accuracy with no pixel removed, by size of the batches: {accuracies}")
assert accuracies == {FIRST: 1.0, IMAGES: 0.5}

noise = np.concatenate([maps[:FIRST], rng.random(maps[FIRST:].shape).astype(np.float32)])
options = {"abs": False, "normalise": False, "features_in_step": 1}
by_size = {}
for size in (FIRST, IMAGES):
    both = [score(quantus.SensitivityN(**options, **quiet), taken, right, batch_size=size) for taken in (maps, noise)]
    by_size[size] = abs(float(np.mean(both[0])) - float(np.mean(both[1])))
print(f"Sensitivity-N's change where the last {IMAGES - FIRST} maps become noise, by size of the batches: {by_size}")
assert by_size[FIRST] == 0 and by_size[IMAGES] > 0.01

pair = np.concatenate([maps[:1], maps[1:2] * 10])
counts = [int(score(quantus.EffectiveComplexity(eps=0.1, **quiet), taken)[0]) for taken in (maps[:1], pair)]
own = np.abs(maps[0]) / np.abs(maps[0]).max()
print(f"effective complexity of a map alone and beside one ten times as large: {counts}")
assert counts[0] == int((own > 0.1).sum()) and counts[1] < counts[0] / 10
PYTHON
"$folder/env/bin/python" "$folder/batches.py"
