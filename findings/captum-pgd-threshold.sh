#!/usr/bin/env bash
# captum's FGSM and PGD leave a pixel alone where its gradient is below 1e-6, so that confident models look robust.
#
# Version: captum 0.9.0 with torch 2.14.1.
# Guess: a step is the sign of the gradient, and so does not depend on its size as long as float32 can hold it; logits
#   multiplied by 80 change no prediction, and the robust accuracy of a linear network stays 0.
# Behaviour: entries of the gradient smaller than 1e-6 in magnitude count as 0 (an attribute, `zero_thresh`, of the
#   attack). The loss of a confident image has smaller ones everywhere; such an image is returned as it was.
# Output seen: of 64 images, by captum's linf PGD (epsilon 0.1, 20 steps, cross-entropy) 0 robust with the logits as they
#   are and 27 with 80 times those, all of them unmoved; their largest gradients lie between 1e-21 and 1e-6. By the same
#   steps written out, 0 and 0.
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.14.1 captum==0.9.0
cat > "$folder/threshold.py" <<'PYTHON'
import warnings

import torch
from captum.robust import PGD

warnings.simplefilter("ignore")
torch.manual_seed(0)
linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 10))
drawn = torch.rand(200, 3, 8, 8)
two = linear(drawn).detach().topk(2, dim=1).values
images = drawn[(two[:, 0] - two[:, 1]).argsort(descending=True)[:64]]
labels = linear(images).argmax(dim=1)
loss, epsilon, steps = torch.nn.CrossEntropyLoss(reduction="none"), 0.1, 20


def gradient(network, points):
    leaf = points.clone().requires_grad_()
    return torch.autograd.grad(loss(network(leaf), labels).sum(), leaf)[0]


for scale, expected in ((1, 0), (80, 27)):

    def network(points, scale=scale):
        return scale * linear(points)

    attack = PGD(network, loss_func=loss, lower_bound=0.0, upper_bound=1.0)
    options = {"radius": epsilon, "step_size": epsilon / 4, "step_num": steps, "norm": "Linf"}
    found = attack.perturb(images, target=labels, **options)
    plain = images.clone()
    for _ in range(steps):
        stepped = plain + epsilon / 4 * gradient(network, plain).sign()
        plain = stepped.clamp(images - epsilon, images + epsilon).clamp(0, 1)
    robust, by_steps = ((linear(points).argmax(dim=1) == labels) for points in (found, plain))
    largest = gradient(network, images).abs().flatten(1).amax(dim=1)
    unmoved = (found == images).flatten(1).all(dim=1)
    print(
        f"logits times {scale}: robust {int(robust.sum())} of {len(images)} (steps written out: {int(by_steps.sum())}), "
        f"unmoved {int(unmoved.sum())}, largest gradients from {float(largest.min()):.0e}"
    )
    assert int(robust.sum()) == int(unmoved.sum()) == expected
    assert int(by_steps.sum()) == 0
    assert float(largest.min()) > 1e-30
    assert torch.equal(unmoved, largest < 1e-6)
PYTHON
"$folder/env/bin/python" "$folder/threshold.py"
