#!/usr/bin/env bash
# torch.randn gives the first image other noise when more images follow it, unless an image has a multiple of 16 pixels.
#
# Version: torch 2.14.1, on the CPU.
# Guess: with the same seed, the noise of the first image is the same in a batch of one and in a larger one, as numpy's
#   generators and torch.rand have it.
# Behaviour: normal numbers are made in blocks of 16, and the last 16 are drawn anew where the total is no multiple of
#   16. Fewer than 16 are made by another rule altogether. So a random start or a smoothed prediction depends on the
#   size of the batch for images of 33 by 33 pixels, and does not for 32 by 32.
# Output seen: changed entries of the first image with 2, 3 and 5 images: 16 each for 3x33x33 and 1x7x7, all 15 for 3x5,
#   0 for 3x32x32 and 1x28x28; torch.rand 0 for all.
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.14.1 numpy==2.4.6
cat > "$folder/noise.py" <<'PYTHON'
import torch


def first(draw, images, shape):
    torch.manual_seed(0)
    return draw(images, *shape)[0]


def changed(draw, shape):
    """Entries of the first image's noise that depend on the number of images."""
    return [int((first(draw, images, shape) != first(draw, 1, shape)).sum()) for images in (2, 3, 5)]


expected = {(3, 32, 32): 0, (1, 28, 28): 0, (3, 33, 33): 16, (1, 7, 7): 16, (3, 5): 15}
for shape, entries in expected.items():
    normal, uniform = changed(torch.randn, shape), changed(torch.rand, shape)
    print(f"{shape}: randn {normal}, rand {uniform}")
    assert normal == [entries] * 3
    assert uniform == [0] * 3
PYTHON
"$folder/env/bin/python" "$folder/noise.py"
