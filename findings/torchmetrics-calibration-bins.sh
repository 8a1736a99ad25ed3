#!/usr/bin/env bash
# torchmetrics' calibration error puts confidences of exactly 1 into a bin of their own, and so finds errors that cancel.
#
# Version: torchmetrics 1.9.0 with torch 2.14.1.
# Guess: with n bins the last one holds confidences above (n - 1) / n up to 1, as the papers have it (Guo et al., 2017).
# Behaviour: a confidence of 1.0 belongs to bin n + 1. Networks that saturate in float32, as many with B-cos or other
#   large logits do, are measured with 16 bins where 15 were asked for: what is overconfident at 1.0 and what is
#   underconfident just below do not meet in one bin, and the error is larger than the definition's.
# Output seen: 100 answers of confidence 1.0 of which 98 are right, 100 of confidence 0.95 of which 97 are: 0.0200 with 15
#   bins, where the definition gives 0.0000; with 0.9999 in place of 1.0 both give 0.0001. The binary one does the same.
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.14.1 torchmetrics==1.9.0 numpy==2.4.6
cat > "$folder/calibration.py" <<'PYTHON'
import numpy as np
import torch
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

BINS = 15
labels = torch.tensor([0] * 98 + [1] * 2 + [0] * 97 + [1] * 3)


def answers(highest):
    first, second = [highest, 1 - highest], [0.95, 0.05]
    return torch.tensor([first] * 100 + [second] * 100)


def defined(predicted):
    """Mean distance of confidence and accuracy, over bins that include their upper end."""
    confidence, choice = predicted.numpy().astype(float).max(axis=1), predicted.argmax(dim=1)
    right = (choice == labels).numpy()
    place = np.ceil(confidence * BINS - 1e-6)
    groups = [place == number for number in np.unique(place)]
    return sum(abs(right[group].mean() - confidence[group].mean()) * group.mean() for group in groups)


found = {
    highest: (float(multiclass_calibration_error(answers(highest), labels, 2, n_bins=BINS)), defined(answers(highest)))
    for highest in (1.0, 0.9999)
}
print({highest: tuple(round(value, 4) for value in values) for highest, values in found.items()})
assert abs(found[1.0][0] - 0.02) < 1e-4 and found[1.0][1] < 1e-4
assert max(found[0.9999]) < 1e-3
binary = binary_calibration_error(answers(1.0)[:, 0], 1 - labels, n_bins=BINS)
assert abs(float(binary) - 0.02) < 1e-4
PYTHON
"$folder/env/bin/python" "$folder/calibration.py"
