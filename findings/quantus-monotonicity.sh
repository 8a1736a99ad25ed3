#!/usr/bin/env bash
# Quantus' Monotonicity is true for every map and every network: the pixels it puts back are black ones.
#
# Version: quantus 0.6.0 with torch 2.14.1, numpy 2.4.6, scikit-image 0.26.0 and opencv-python 5.0.0.93.
# Guess: pixels of the image are put on a baseline, the least important first, and the label's score must never fall
#   (Arya et al., 2019): true for the map of a linear network without negative evidence, and false for nearly any
#   other, such as noise on a network that has both.
# Behaviour: the picture begins as the baseline, and each step writes the baseline once more where pixels of the image
#   belong. The scores are constant and so never fall; the image is used nowhere.
# Output seen: share of 100 images for which it is true: written out 1.00 for exact maps of a network without negative
#   evidence, 0.00 for exact maps of one with, and for noise; by quantus 1.00 for all three.
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet quantus==0.6.0 torch==2.14.1 \
    numpy==2.4.6 scikit-image==0.26.0 scikit-learn==1.9.1 scipy==1.17.1 pandas==3.1.1 opencv-python==5.0.0.93
cat > "$folder/monotone.py" <<'PYTHON'
import warnings

import numpy as np
import quantus
import torch

warnings.simplefilter("ignore")
IMAGES, SIDE = 100, 8
torch.manual_seed(0)
rng = np.random.default_rng(0)
signed = torch.randn(1, SIDE, SIDE)
images = rng.random((IMAGES, 1, SIDE, SIDE)).astype(np.float32)
labels = np.zeros(IMAGES, dtype=int)


class Linear(torch.nn.Module):
    def __init__(self, weights):
        super().__init__()
        self.weights = torch.nn.Parameter(weights)

    def forward(self, points):
        score = (points * self.weights).flatten(1).sum(dim=1)
        return torch.stack([score, -score], dim=1)


def written_out(weights, attributions):
    """The share of images whose score never falls while pixels are put on black, the least important first."""
    order = attributions.reshape(IMAGES, -1).argsort(axis=1)
    gains = np.take_along_axis((images * weights.numpy()).reshape(IMAGES, -1), order, axis=1)
    return float((gains >= 0).all(axis=1).mean())


noise = rng.random(images.shape).astype(np.float32)
positive = signed.abs()
cases = {
    "exact maps, no negative evidence": (positive, images * positive.numpy(), 1.0),
    "exact maps": (signed, images * signed.numpy(), 0.0),
    "noise": (signed, noise, 0.0),
}
for name, (weights, attributions, expected) in cases.items():
    metric = quantus.Monotonicity(abs=False, normalise=False, perturb_baseline="black", disable_warnings=True)
    given = {"x_batch": images.copy(), "y_batch": labels, "a_batch": attributions.copy()}
    found = metric(model=Linear(weights).eval(), channel_first=True, softmax=False, device="cpu", **given)
    print(f"{name}: written out {written_out(weights, attributions):.2f}, by quantus {np.mean(found):.2f}")
    assert written_out(weights, attributions) == expected and np.mean(found) == 1
PYTHON
"$folder/env/bin/python" "$folder/monotone.py"
