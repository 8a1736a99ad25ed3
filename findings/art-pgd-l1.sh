#!/usr/bin/env bash
# ART's PGD in l1 moves one pixel until it is black or white, and then nothing more, however large epsilon is.
#
# Version: adversarial-robustness-toolbox 1.20.1 with scikit-learn 1.9.1 and numpy 2.4.6.
# Guess: once the pixel of the largest gradient is at the end of the box, the next step goes to the next pixel, so that a
#   larger epsilon breaks more images, and all in the end.
# Behaviour: each step goes to the largest entry of the gradient, also where the box does not let it move. Robust
#   accuracy in l1 is the same number for every epsilon above about 1, by PGD as by one step of FGSM.
# Output seen: of 40 images against a linear network, robust with epsilon 1, 4 and 16: 22 each time by PGD (40 steps), with
#   one pixel changed in each image; by what is best in l1 and the box 8, 0 and 0. In linf, PGD is right: 0.
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet adversarial-robustness-toolbox==1.20.1 \
    numpy==2.4.6 scipy==1.17.1 scikit-learn==1.9.1 six==1.17.0 setuptools==84.2.1 tqdm==4.70.1 packaging==26.4
cat > "$folder/onepixel.py" <<'PYTHON'
import numpy as np
from art.attacks.evasion import ProjectedGradientDescent
from art.estimators.classification import SklearnClassifier
from sklearn.linear_model import LogisticRegression

CLASSES, PIXELS = 3, 64
rng = np.random.default_rng(0)
weights = rng.standard_normal((CLASSES, PIXELS))
network = LogisticRegression()
network.coef_, network.intercept_, network.classes_ = weights, np.zeros(CLASSES), np.arange(CLASSES)
images = rng.uniform(0.2, 0.8, (40, PIXELS)).astype(np.float32)
logits = images @ weights.T
labels = logits.argmax(axis=1)
model = SklearnClassifier(network, clip_values=(0, 1))


def reached(image, slopes, epsilon):
    """The largest rise of a linear score: pixels go to their end, the steepest first, until epsilon is spent."""
    room = np.where(slopes > 0, 1 - image, image)
    order = np.argsort(-abs(slopes))
    left = np.clip(epsilon - np.concatenate([[0], np.cumsum(room[order])[:-1]]), 0, None)
    return (abs(slopes[order]) * np.minimum(left, room[order])).sum()


def broken(image, logit, label, epsilon):
    others = [other for other in range(CLASSES) if other != label]
    slopes = weights[others] - weights[label]
    return any(
        reached(image, slope, epsilon) > logit[label] - logit[other]
        for slope, other in zip(slopes, others, strict=True)
    )


def robust(norm, epsilon):
    attack = ProjectedGradientDescent(model, norm=norm, eps=epsilon, eps_step=epsilon / 10, max_iter=40, verbose=False)
    found = attack.generate(images, np.eye(CLASSES)[labels])
    moved = int((abs(found - images) > 1e-6).sum(axis=1).max())
    return int((model.predict(found).argmax(axis=1) == labels).sum()), moved


best, pgd = [], []
for epsilon in (1.0, 4.0, 16.0):
    best.append(sum(not broken(*each, epsilon) for each in zip(images, logits, labels, strict=True)))
    pgd.append(robust(1, epsilon))
print(f"l1, robust and pixels changed by PGD: {pgd}; robust to the best: {best}; linf by PGD: {robust(np.inf, 0.1)}")
assert pgd == [(22, 1)] * 3
assert best[1:] == [0, 0] and 0 < best[0] < 22
assert robust(np.inf, 0.1)[0] == 0
PYTHON
"$folder/env/bin/python" "$folder/onepixel.py"
