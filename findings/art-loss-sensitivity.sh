#!/usr/bin/env bash
# ART's loss sensitivity of a network is smaller the more images it is given, and a third of it by another estimator.
#
# Version: adversarial-robustness-toolbox 1.20.1 with torch 2.14.1, scikit-learn 1.9.1 and numpy 2.4.6.
# Guess: the mean length of the gradients of the images' losses (Arpit et al., 2017): the same number for one image,
#   and for a batch the mean of its images' numbers; of a linear network the same by torch and by scikit-learn.
# Behaviour: by PyTorchClassifier the gradient is that of the loss as given, cross-entropy by default over its batch's
#   mean, so that each image's gradient is divided by the number of images; with reduction "sum" it is right. By
#   ScikitlearnLogisticRegression it is divided by the number of classes.
# Output seen: mean length written out for 1, 8 and 64 images 0.500, 0.433, 0.466; by torch with the default loss
#   0.500, 0.054, 0.0073, with "sum" as written out; by scikit-learn, 3 classes, 0.167, 0.144, 0.155.
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet adversarial-robustness-toolbox==1.20.1 torch==2.14.1 \
    numpy==2.4.6 scipy==1.17.1 scikit-learn==1.9.1 six==1.17.0 setuptools==84.2.1 tqdm==4.70.1 packaging==26.4
cat > "$folder/sensitivity.py" <<'PYTHON'
import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier, SklearnClassifier
from art.metrics import loss_sensitivity
from sklearn.linear_model import LogisticRegression

CLASSES, PIXELS, SIZES = 3, 64, (1, 8, 64)
torch.manual_seed(0)
rng = np.random.default_rng(0)
network = torch.nn.Linear(PIXELS, CLASSES)
weights, bias = network.weight.detach().numpy(), network.bias.detach().numpy()
images = rng.random((max(SIZES), PIXELS)).astype(np.float32)
labels = np.eye(CLASSES, dtype=np.float32)[rng.integers(0, CLASSES, len(images))]
shares = torch.softmax(torch.from_numpy(images @ weights.T + bias), dim=1).numpy()
lengths = np.linalg.norm((shares - labels) @ weights, axis=1)
written_out = np.array([lengths[:size].mean() for size in SIZES])

regression = LogisticRegression()
regression.coef_, regression.intercept_, regression.classes_ = weights, bias, np.arange(CLASSES)
losses = {reduction: torch.nn.CrossEntropyLoss(reduction=reduction) for reduction in ("mean", "sum")}
models = {name: PyTorchClassifier(network, loss, (PIXELS,), CLASSES) for name, loss in losses.items()}
models["scikit-learn"] = SklearnClassifier(regression)
print("written out:", *(f"{value:.4f}" for value in written_out))
for name, model in models.items():
    found = np.array([loss_sensitivity(model, images[:size], labels[:size]) for size in SIZES])
    print(f"{name}:", *(f"{value:.4f}" for value in found))
    divisor = {"mean": np.array(SIZES), "sum": 1, "scikit-learn": CLASSES}[name]
    assert np.allclose(found, written_out / divisor, rtol=1e-3)
PYTHON
"$folder/env/bin/python" "$folder/sensitivity.py"
