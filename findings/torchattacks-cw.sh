#!/usr/bin/env bash
# torchattacks' Carlini-Wagner attack is lost where logits are negative, and cannot move a pixel that is black or white.
#
# Version: torchattacks 3.5.1 with torch 2.14.1.
# Guess: the loss is the label's logit minus the largest other one, so a constant added to all logits changes nothing,
#   as it changes no prediction. Pixels are kept off the ends of [0, 1] before the inverse of tanh, so all can move.
# Behaviour: each of the two logits is the largest of its kind and of zeros. Where the wrong classes are below 0, as
#   one-against-all training (binary cross-entropy) makes them, loss and slope end at 0 before the label has lost; where
#   all are, there is no slope from the start. For pixels of 0 and 1 the inverse of tanh is infinite, where tanh has no
#   slope: they stay, so that black-and-white pictures, such as handwriting, come back as they were.
# Output seen: of 64 grey images against a linear network, robust with 10 added to all logits 0, with nothing added 64,
#   with 10 taken away 64; black-and-white ones with 10 added 64, and no pixel moved. PGD in l2 leaves 0 each time.
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.14.1 torchvision==0.29.1 torchattacks==3.5.1 numpy==2.4.6
cat > "$folder/carlini.py" <<'PYTHON'
import torch
import torchattacks

torch.manual_seed(0)


class Network(torch.nn.Module):
    """Linear, with a constant added to all logits."""

    def __init__(self, linear, added):
        super().__init__()
        self.linear = linear
        self.added = added

    def forward(self, points):
        return self.linear(points.flatten(1)) + self.added


linear = torch.nn.Linear(64, 3)
drawn = torch.rand(64, 1, 8, 8)
greys, extremes = 0.25 + drawn / 2, drawn.round()
robust = {}
for kind, images, added in (
    ("greys", greys, 10.0),
    ("greys", greys, 0.0),
    ("greys", greys, -10.0),
    ("extremes", extremes, 10.0),
):
    network = Network(linear, added).eval()
    labels = network(images).argmax(dim=1)
    by_cw = torchattacks.CW(network, c=10, steps=500, lr=0.01)(images, labels)
    by_descent = torchattacks.PGDL2(network, eps=3.0, alpha=0.5, steps=50)(images, labels)
    left, easy = (int((network(found).argmax(dim=1) == labels).sum()) for found in (by_cw, by_descent))
    moved = int((by_cw != images).sum())
    robust[kind, added] = left
    print(f"{kind}, {added:g} added: CW leaves {left} of {len(images)} and moves {moved} pixels, PGD in l2 leaves {easy}")
    assert easy == 0
assert moved == 0
assert robust["greys", 10.0] == 0
assert robust["greys", 0.0] > 50
assert robust["greys", -10.0] == robust["extremes", 10.0] == 64
PYTHON
"$folder/env/bin/python" "$folder/carlini.py"
