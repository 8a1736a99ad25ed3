#!/usr/bin/env bash
# torchmetrics' AUROC changes scores before it ranks them: large ones become ties, and batches are changed apart.
#
# Version: torchmetrics 1.9.0 with torch 2.14.1.
# Guess: the area under the ROC curve depends on the order of the scores alone (energies, logits, sums of a map), and
#   not on how they were cut into batches.
# Behaviour: scores are taken for logits and put through a sigmoid if one of the batch is outside [0, 1]. In float32
#   it is 1 above 17, so that large scores are ties; and of two batches the one within [0, 1] stays as it is while the
#   other is squeezed. Average precision does the same.
# Output seen: negatives 20, 30 and positives 40, 50: AUROC 0.5, a hundredth of these 1, average precision 0.5.
#   Negatives 0.6, 0.9 and positives 1.2, 1.5: AUROC 1 in one batch, 0.5 in two or four.
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.14.1 torchmetrics==1.9.0 numpy==2.4.6
cat > "$folder/ranked.py" <<'PYTHON'
import torch
from torchmetrics.classification import BinaryAUROC
from torchmetrics.functional.classification import binary_auroc, binary_average_precision

scores, labels = torch.tensor([20.0, 30.0, 40.0, 50.0]), torch.tensor([0, 0, 1, 1])
large, small = (float(binary_auroc(taken, labels)) for taken in (scores, scores / 100))
precise = float(binary_average_precision(scores, labels))
print(f"scores {scores.tolist()}: AUROC {large:g}, a hundredth of them {small:g}; average precision {precise:g}")
assert (large, small, precise) == (0.5, 1.0, 0.5)

scores, labels = torch.tensor([0.6, 0.9, 1.2, 1.5]), torch.tensor([0, 0, 1, 1])
found = {}
for size in (4, 2, 1):
    metric = BinaryAUROC()
    for batch in zip(scores.split(size), labels.split(size), strict=True):
        metric.update(*batch)
    found[size] = float(metric.compute())
print(f"scores {scores.tolist()}: AUROC by size of the batches {found}")
assert found == {4: 1.0, 2: 0.5, 1: 0.5}
PYTHON
"$folder/env/bin/python" "$folder/ranked.py"
