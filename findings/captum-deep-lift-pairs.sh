#!/usr/bin/env bash
# captum's DeepLift breaks its sum where one nonlinear layer follows straight on another, as pooling does on a ReLU.
#
# Version: captum 0.9.0 with torch 2.14.1.
# Guess: with layers it has rules for (ReLU, sigmoid, softplus, maximum pooling), a map sums to the change of the
#   output from the baseline ("summation to delta", Shrikumar et al., 2017), whichever layer stands behind which.
# Behaviour: where a layer with a rule follows straight on another, the sum is lost, as in every network that pools
#   its ReLUs; a layer between the two that multiplies by 1 mends it, so the rule of the second does not reach the
#   first. Maximum pooling with overlapping windows, as behind the first convolution of a ResNet, loses the sum with
#   that too.
# Output seen: error of the sum over the output's change, median of 20 images, with random baselines and with black
#   ones: ReLU and 2x2 pooling behind two convolutions 1.2 and 0.04, with times 1 between them 2e-15 and 7e-16;
#   sigmoid and softplus 0.03 and 0.03, with times 1 3e-14 and 1e-14; overlapping pooling, with times 1, 0.6 and 0.7.
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.14.1 captum==0.9.0
cat > "$folder/pairs.py" <<'PYTHON'
import warnings

import torch
from captum.attr import DeepLift
from torch import nn

warnings.simplefilter("ignore")
torch.set_default_dtype(torch.float64)


class Same(nn.Module):
    def forward(self, values):
        return values * 1.0


def first():
    return nn.Conv2d(3, 8, 3, padding=1)


def second():
    return nn.Conv2d(8, 8, 3, padding=1)


def pool():
    return nn.MaxPool2d(2)


def overlapping():
    return nn.MaxPool2d(3, 2, 1)


def mean():
    return nn.AvgPool2d(2)


networks = {
    "two ReLU layers, pooling": [first, nn.ReLU, second, nn.ReLU, pool],
    "two ReLU layers, times 1, pooling": [first, nn.ReLU, second, nn.ReLU, Same, pool],
    "sigmoid, softplus": [first, nn.Sigmoid, nn.Softplus, mean],
    "sigmoid, times 1, softplus": [first, nn.Sigmoid, Same, nn.Softplus, mean],
    "ReLU, times 1, overlapping pooling": [first, nn.ReLU, Same, overlapping],
}
torch.manual_seed(0)
images, noise, labels = torch.rand(20, 3, 16, 16), torch.rand(20, 3, 16, 16), torch.arange(20) % 5
for name, layers in networks.items():
    torch.manual_seed(1)
    network = nn.Sequential(*(make() for make in layers), nn.Flatten(), nn.Linear(8 * 8 * 8, 5)).eval()
    errors = []
    for baseline in (noise, torch.zeros_like(noise)):
        change = (network(images) - network(baseline)).gather(1, labels[:, None])[:, 0]
        found = DeepLift(network).attribute(images, baselines=baseline, target=labels).flatten(1).sum(dim=1)
        errors.append(float(((found - change) / change).abs().median()))
    print(f"{name}: {errors[0]:.1e} with random baselines, {errors[1]:.1e} with black ones")
    exact = "times 1" in name and "overlapping" not in name
    assert max(errors) < 1e-9 if exact else min(errors) > 0.01
PYTHON
"$folder/env/bin/python" "$folder/pairs.py"
