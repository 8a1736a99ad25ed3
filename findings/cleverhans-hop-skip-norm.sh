#!/usr/bin/env bash
# CleverHans' HopSkipJump for torch gives the same answers whatever norm it is asked for: those of l2.
#
# Version: cleverhans 4.0.0 with torch 2.14.1.
# Guess: with norm inf, which the function takes and lists, steps follow signs, the way back to the image is a clipped
#   box, and distances are largest changes (Chen et al., 2020), so that linf distances are smaller than from norm 2.
# Behaviour: the argument is looked at nowhere. The images for inf are those for 2, bit for bit.
# Output seen: of 8 images against a linear network, equal to those for norm 2: 8; their linf distance in the median is 2
#   to 3 times the exact one, their l2 distance 1.0 to 1.2 times.
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --no-deps cleverhans==4.0.0
"$folder/env/bin/pip" install --quiet torch==2.14.1 numpy==2.4.6
cat > "$folder/norms.py" <<'PYTHON'
import contextlib
import io

import numpy as np
import torch
from cleverhans.torch.attacks.hop_skip_jump_attack import hop_skip_jump_attack

torch.manual_seed(0)
network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2)).eval()
images = torch.rand(8, 3, 8, 8) * 0.6 + 0.2
weights = (network[1].weight[0] - network[1].weight[1]).detach()
margins = (network(images)[:, 0] - network(images)[:, 1]).detach().abs()


def attacked(norm):
    torch.manual_seed(0)
    np.random.seed(0)
    with contextlib.redirect_stdout(io.StringIO()):
        return hop_skip_jump_attack(network, images, norm=norm, num_iterations=10, max_num_evals=500)


found = {norm: attacked(norm) for norm in (2, np.inf)}
equal = int((found[2] == found[np.inf]).flatten(1).all(dim=1).sum())
changes = (found[np.inf] - images).flatten(1)
largest = float((changes.abs().amax(dim=1) / (margins / weights.norm(p=1))).median())
length = float((changes.norm(dim=1) / (margins / weights.norm())).median())
print(f"equal {equal} of 8; distance over the exact one in linf {largest:.2f}, in l2 {length:.2f}")
assert equal == 8
assert largest > 1.8 and length < 1.3
PYTHON
"$folder/env/bin/python" "$folder/norms.py"
