#!/usr/bin/env bash
# Quantus' Infidelity and Sensitivity-N never give pixels back, so that a picture turned upside down has another score.
#
# Version: quantus 0.6.0 with torch 2.14.1, numpy 2.4.6, scikit-image 0.26.0 and opencv-python 5.0.0.93.
# Guess: infidelity (Yeh et al., 2019) is the mean over patches of what each one's removal by itself does to the
#   output, less what the map says of it, squared; it does not depend on which way up image, network and map are. For
#   the exact contributions of a linear network Sensitivity-N (Ancona et al., 2018) is 1, as both sides are equal.
# Behaviour: patches are taken one after the other from the top left, and stay black: the second term is for two
#   patches and the last for all. All of the "perturbed samples" (10 by default) are the same. Sensitivity-N holds the
#   change after n pixels against the attributions of the n-th pixel alone, and its pixels are no random ones but the
#   map's own.
# Output seen: quadratic network, gradients as maps, 20 images of 4 patches: infidelity 0.47 to 6.21 times its
#   definition, and upside down 0.23 to 9.55 times itself. Linear network, exact contributions: Sensitivity-N 0.24.
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet quantus==0.6.0 torch==2.14.1 \
    numpy==2.4.6 scikit-image==0.26.0 scikit-learn==1.9.1 scipy==1.17.1 pandas==3.1.1 opencv-python==5.0.0.93
cat > "$folder/cumulated.py" <<'PYTHON'
import warnings

import numpy as np
import quantus
import torch

warnings.simplefilter("ignore")
IMAGES, SIDE, PATCH = 20, 8, 4
torch.manual_seed(0)
rng = np.random.default_rng(0)
weights = torch.randn(1, SIDE, SIDE).numpy() / SIDE
images = rng.random((IMAGES, 1, SIDE, SIDE)).astype(np.float32)
# "black" is the smallest value of the picture.
images.reshape(IMAGES, -1)[np.arange(IMAGES), rng.integers(0, SIDE**2, IMAGES)] = 0
labels = np.zeros(IMAGES, dtype=int)


class Power(torch.nn.Module):
    def __init__(self, weights, power):
        super().__init__()
        self.weights, self.power = torch.nn.Parameter(torch.from_numpy(weights.copy())), power

    def forward(self, points):
        score = (points * self.weights).flatten(1).sum(dim=1) ** self.power
        return torch.stack([score, -score], dim=1)


def score(metric, power, points, slopes, attributions):
    given = {"x_batch": points.copy(), "y_batch": labels, "a_batch": attributions.copy()}
    found = metric(model=Power(slopes, power).eval(), channel_first=True, softmax=False, device="cpu", **given)
    return np.array(found, dtype=float)


def summed(points):
    return (points * weights).reshape(IMAGES, -1).sum(axis=1)


def written_out(attributions, give_back):
    errors, removed = [], images.copy()
    for top in range(0, SIDE, PATCH):
        for left in range(0, SIDE, PATCH):
            removed = images.copy() if give_back else removed
            removed[:, :, top : top + PATCH, left : left + PATCH] = 0
            said = (attributions * (images - removed)).reshape(IMAGES, -1).sum(axis=1)
            errors.append((summed(images) ** 2 - summed(removed) ** 2 - said) ** 2)
    return np.mean(errors, axis=0)


def turned(values):
    return np.ascontiguousarray(values[..., ::-1, ::-1])


def infidelity(samples):
    return quantus.Infidelity(perturb_patch_sizes=[PATCH], n_perturb_samples=samples, disable_warnings=True)


gradients = 2 * summed(images)[:, None, None, None] * weights
found = score(infidelity(10), 2, images, weights, gradients)
upside_down = score(infidelity(10), 2, turned(images), turned(weights), turned(gradients))
once = score(infidelity(1), 2, images, weights, gradients)
over, ratio = found / written_out(gradients, give_back=True), upside_down / found
print(f"infidelity {over.min():.2f} to {over.max():.2f} times its definition")
print(f"upside down {ratio.min():.2f} to {ratio.max():.2f} times itself")
assert np.allclose(found, written_out(gradients, give_back=False), rtol=1e-4) and np.allclose(found, once, rtol=1e-5)
assert over.min() < 0.5 and over.max() > 2 and ratio.min() < 0.5 and ratio.max() > 2

metric = quantus.SensitivityN(abs=False, normalise=False, features_in_step=1, disable_warnings=True)
correlation = float(np.mean(score(metric, 1, images, weights, images * weights)))
print(f"Sensitivity-N of the exact contributions of a linear network {correlation:.2f}")
assert correlation < 0.5
PYTHON
"$folder/env/bin/python" "$folder/cumulated.py"
