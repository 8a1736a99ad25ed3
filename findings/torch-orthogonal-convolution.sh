#!/usr/bin/env bash
# torch's orthogonal parametrisation of a convolution makes every k by k kernel orthogonal, and not the convolution.
#
# Version: torch 2.14.1 (torch.nn.utils.parametrizations.orthogonal), and geotorch 0.4.0, which does the same.
# Guess: as torch.nn.init.orthogonal_ does, it takes the filters as the rows of a matrix and keeps these orthonormal, so
#   that the layer's Lipschitz constant stays small while it is trained.
# Behaviour: of a weight of four axes each k by k kernel is an orthogonal matrix of its own, and filters overlap freely.
#   The matrix of 16 filters of 16 channels has a norm near 9, which grows with the channels; a kernel that is a blur
#   cannot be learned.
# Output seen: largest singular value of the 16 by 144 matrix of filters 1.0 for init.orthogonal_, 8.8 for the
#   parametrisation and about as much for geotorch; every kernel times its transpose is the identity within 1e-5.
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.14.1 geotorch==0.4.0 numpy==2.4.6
cat > "$folder/filters.py" <<'PYTHON'
import geotorch
import torch
from torch import nn

CHANNELS, SIDE = 16, 3
torch.manual_seed(0)


def largest(layer):
    return float(torch.linalg.matrix_norm(layer.weight.detach().flatten(1), ord=2))


def initialised():
    layer = nn.Conv2d(CHANNELS, CHANNELS, SIDE)
    nn.init.orthogonal_(layer.weight)
    return layer


def parametrised():
    return nn.utils.parametrizations.orthogonal(nn.Conv2d(CHANNELS, CHANNELS, SIDE))


def geometric():
    layer = nn.Conv2d(CHANNELS, CHANNELS, SIDE)
    geotorch.orthogonal(layer, "weight")
    return layer


norms = {make.__name__: largest(make()) for make in (initialised, parametrised, geometric)}
kernels = parametrised().weight.detach()
apart = float((kernels @ kernels.transpose(-1, -2) - torch.eye(SIDE)).abs().max())
print(norms, f"kernels times their transposes: within {apart:.1g} of the identity")
assert abs(norms["initialised"] - 1) < 1e-5
assert min(norms["parametrised"], norms["geometric"]) > 8
assert apart < 1e-5
PYTHON
"$folder/env/bin/python" "$folder/filters.py"
