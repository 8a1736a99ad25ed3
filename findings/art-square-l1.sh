#!/usr/bin/env bash
# ART's Square attack takes norm 1 without a word and does nothing, so that every model is robust in l1.
#
# Version: adversarial-robustness-toolbox 1.20.1 with numpy 2.4.6.
# Guess: the constructor refuses norms other than 1, 2 and inf by name, so it searches in each of these three.
# Behaviour: it searches in l2 and linf; with norm 1 nothing is tried, and the images come back as they were.
# Output seen: of 40 images, with an epsilon that reaches every image of the box, norm 1 leaves 40 robust and changes
#   none; norm 2 leaves 1 to 10 by its draws, inf 0.
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet adversarial-robustness-toolbox==1.20.1 \
    numpy==2.4.6 scipy==1.17.1 scikit-learn==1.9.1 six==1.17.0 setuptools==84.2.1 tqdm==4.70.1 packaging==26.4
cat > "$folder/unmoved.py" <<'PYTHON'
import numpy as np
from art.attacks.evasion import SquareAttack
from art.estimators.classification import BlackBoxClassifierNeuralNetwork

rng = np.random.default_rng(0)
weights = rng.standard_normal((64, 3)).astype(np.float32)
images = rng.random((40, 1, 8, 8)).astype(np.float32)


def network(points):
    scores = points.reshape(len(points), -1) @ weights
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


np.random.seed(0)
labels = network(images).argmax(axis=1)
model = BlackBoxClassifierNeuralNetwork(
    network, input_shape=(1, 8, 8), nb_classes=3, clip_values=(0, 1), channels_first=True
)
for norm, epsilon in ((1, 64.0), (2, 8.0), (np.inf, 1.0)):
    attack = SquareAttack(model, norm=norm, eps=epsilon, max_iter=100, verbose=False)
    found = attack.generate(images.copy(), np.eye(3)[labels])
    robust = int((network(found).argmax(axis=1) == labels).sum())
    moved = int((found != images).reshape(len(images), -1).any(axis=1).sum())
    print(f"norm {norm}, epsilon {epsilon:g}: robust {robust} of {len(images)}, changed {moved}")
    assert (robust, moved) == (40, 0) if norm == 1 else robust < 30
PYTHON
"$folder/env/bin/python" "$folder/unmoved.py"
