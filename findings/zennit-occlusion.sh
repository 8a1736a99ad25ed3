#!/usr/bin/env bash
# zennit's occlusion of a 28x28 picture puts evidence of one corner into all four, and says nothing for a one-hot tensor.
#
# Version: zennit 0.5.1 with torch 2.14.1 and torchvision 0.29.1.
# Guess: windows that do not fit are cut at the border, as captum's are; and a one-hot tensor chooses the class whose score
#   is explained, as it does for all other attributors of the library.
# Behaviour: the window is rolled through the picture, and what leaves it on one side enters on the other. That is so
#   wherever the stride does not divide the size, by default 8: in 28x28 pictures, not in 32x32 ones. A tensor as the
#   output's attribution is the same whatever the network answers, so that every window is worth its sum; a function
#   of the output is needed.
# Output seen: of a network that looks at the top left pixel alone, evidence in the corners top left, top right, bottom
#   left, bottom right: 28x28 true in all four, 32x32 true in the first; with a one-hot tensor the number of windows over
#   each pixel, 1 everywhere or 1, 2 and 4.
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.14.1 torchvision==0.29.1 zennit==0.5.1 numpy==2.4.6
cat > "$folder/corners.py" <<'PYTHON'
import torch
from zennit.attribution import Occlusion


class TopLeft(torch.nn.Module):
    """Ten scores, of which the fourth is the pixel at the top left."""

    def forward(self, images):
        scores = images.new_zeros(len(images), 10)
        scores[:, 3] = images[:, :, 0, 0].sum(dim=1)
        return scores


one_hot = torch.eye(10)[[3]]
for size, expected in ((28, [True, True, True, True]), (32, [True, False, False, False])):
    image = torch.full((1, 1, size, size), 0.5)
    with Occlusion(model=TopLeft()) as attributor:
        _, evidence = attributor(image, lambda scores: scores * one_hot)
        _, fixed = attributor(image, one_hot)
    corners = [bool(evidence[0, 0, row, column] != 0) for row in (0, -1) for column in (0, -1)]
    values = fixed.unique().tolist()
    print(f"{size}x{size}: evidence in the corners {corners}; values of the map for a one-hot tensor {values}")
    assert corners == expected
    assert len(values) == (1 if size == 32 else 3)
PYTHON
"$folder/env/bin/python" "$folder/corners.py"
