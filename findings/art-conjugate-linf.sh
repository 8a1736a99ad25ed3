#!/usr/bin/env bash
# ART's auto conjugate gradient attack in linf takes no signs: it steps by the gradient itself, and finds less than FGSM.
#
# Version: adversarial-robustness-toolbox 1.20.1 with torch 2.14.1 and numpy 2.4.6.
# Guess: in linf a step is the sign of the conjugate gradient (Yamamura et al., 2022), as its l2 steps are of length
#   one; so it finds as much where the gradient is small, and no less than FGSM.
# Behaviour: the sign is taken and thrown away; the step is its size times the gradient, as small as that is. After
#   100 steps most images have hardly left their random starts. In l2 the attack does what it should.
# Output seen: of 40 images against a linear network at epsilon 0.08, robust by FGSM 0, by auto PGD 0, by auto conjugate
#   gradient 28 with steps of 0.02, and 7 with logits, and so the gradient, ten times as large; in l2, epsilon 1, 0.
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet adversarial-robustness-toolbox==1.20.1 torch==2.14.1 \
    numpy==2.4.6 scipy==1.17.1 scikit-learn==1.9.1 six==1.17.0 setuptools==84.2.1 tqdm==4.70.1 packaging==26.4
cat > "$folder/conjugate.py" <<'PYTHON'
import numpy as np
import torch
from art.attacks.evasion import AutoConjugateGradient, AutoProjectedGradientDescent, FastGradientMethod
from art.estimators.classification import PyTorchClassifier
from torch import nn

torch.manual_seed(0)
linear = nn.Linear(192, 3)
images = np.random.default_rng(0).uniform(0.2, 0.8, (40, 192)).astype(np.float32)


class Scaled(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.linear, self.factor = linear, factor

    def forward(self, points):
        return self.linear(points) * self.factor


def robust(kind, *, factor=1.0, norm=np.inf, epsilon=0.08, step=0.02, **settings):
    model = PyTorchClassifier(
        Scaled(factor).eval(), nn.CrossEntropyLoss(), (192,), 3, clip_values=(0, 1), device_type="cpu"
    )
    labels = model.predict(images).argmax(axis=1)
    np.random.seed(0)
    attack = kind(model, norm=norm, eps=epsilon, eps_step=step, **settings)
    return int((model.predict(attack.generate(images, np.eye(3)[labels])).argmax(axis=1) == labels).sum())


steps = {"max_iter": 100, "nb_random_init": 1, "verbose": False}
found = {
    "FGSM": robust(FastGradientMethod),
    "auto PGD": robust(AutoProjectedGradientDescent, **steps),
    "auto conjugate": robust(AutoConjugateGradient, **steps),
    "auto conjugate, larger gradient": robust(AutoConjugateGradient, factor=10.0, **steps),
    "auto conjugate in l2": robust(AutoConjugateGradient, norm=2, epsilon=1.0, step=0.2, **steps),
}
print(found)
assert found["FGSM"] == found["auto PGD"] == found["auto conjugate in l2"] == 0
assert found["auto conjugate"] > found["auto conjugate, larger gradient"] > 0
PYTHON
"$folder/env/bin/python" "$folder/conjugate.py"
